"""Preprocessing in a card: what `Preprocess` writes is taken, anything else is refused by its place."""

import json

import pytest

from pipelines.inference.card_preprocessing import checked_preprocessing
from pipelines.inference.card_values import CardError
from transforms.preprocess import Preprocess


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(spacing=(1.0, None, 2.5), window=None, crop_above=-500),
        Preprocess(
            window=(-200, 300), channels=4, normalization=["CT", "zscore", "rescale_to_0_1", "noNorm"]
        ),
        Preprocess(window=None, channels=3, normalization="rgb_to_0_1"),
    ],
)
def test_what_is_written_is_taken(preprocess):
    content = json.loads(json.dumps(preprocess.parameters()))
    checked = checked_preprocessing(content)
    assert checked == content
    assert Preprocess.from_parameters(checked).parameters() == preprocess.parameters()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spacing": [1.0]}, "not two or three millimetres"),
        ({"spacing": 0}, "preprocessing#spacing"),
        ({"channels": 10**6}, "preprocessing#channels"),
        ({"orientation": "LPS"}, "not 'RAS'"),
        ({"intensity": {"kind": "ct_window", "lower": 10, "upper": 0}}, "whose limits do not increase"),
        ({"intensity": {"kind": "per_channel", "channels": []}}, "each of 1 channels"),
        ({"command": "rm"}, "has an unknown 'command'"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(CardError, match=said):
        checked_preprocessing({**Preprocess().parameters(), **change})
