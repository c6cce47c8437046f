"""What an exported file says of itself, and digests of weights."""

import json

import pytest
import torch

from networks import R2UNet
from pipelines.inference.engines.formats import (
    CARD_KEY,
    EXPORT_KEY,
    SIZES,
    EngineError,
    MissingError,
    needed,
    quiet,
    read_texts,
    texts_of,
    weights_digest,
)
from tests.pipelines.inference.engines.models import SMALL


def test_texts_come_back_without_names_of_cases(r2unet):
    texts = texts_of(r2unet.card, "12", SIZES[1], int8=True)
    assert "jane_doe" in r2unet.path.with_suffix(".json").read_text(encoding="utf-8")
    assert "jane_doe" not in texts.card
    found = read_texts({CARD_KEY: texts.card, EXPORT_KEY: texts.export}, "model.onnx")
    assert (found.weights, found.sizes, found.int8) == ("12", SIZES[1], True)
    for key in ("labels", "patch_size", "preprocessing", "network", "sha256"):
        assert found.card[key] == r2unet.card[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({EXPORT_KEY: None}, "does not say of which model it is"),
        ({EXPORT_KEY: "no JSON"}, "does not say of which model it is"),
        ({EXPORT_KEY: "[]"}, "does not say of which model it is"),
        ({EXPORT_KEY: json.dumps({"format": 99})}, "another version"),
        ({CARD_KEY: "{}"}, "'labels' is missing"),
    ],
)
def test_a_file_that_says_nothing_of_itself_is_refused(r2unet, change, said):
    texts = texts_of(r2unet.card, "12", SIZES[0])
    known = {CARD_KEY: texts.card, EXPORT_KEY: texts.export, **change}
    with pytest.raises(EngineError, match=f"model.onnx.*{said}"):
        read_texts({key: value for key, value in known.items() if value is not None}, "model.onnx")


def test_a_digest_is_of_weights_and_definition_alone():
    torch.manual_seed(0)
    network = R2UNet(**SMALL)
    found = weights_digest(network, SMALL)
    assert weights_digest(network.to(memory_format=torch.channels_last).eval(), SMALL) == found
    assert weights_digest(network, {**SMALL, "num_steps": 2}) != found
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(network, SMALL) != found


def test_an_absent_package_is_one_sentence():
    with pytest.raises(
        MissingError, match=r"needs the package absent_one .*pip install 'segbundles\[export\]'"
    ):
        needed("absent_one", "export")


def test_levels_of_loggers_come_back(caplog):
    import logging

    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with pytest.raises(RuntimeError), quiet():
        raise RuntimeError
    assert logger.level == before
