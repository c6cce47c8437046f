"""A trained model from its two files, and nothing else."""

import json
import os
from pathlib import Path

import pytest
import torch

from pipelines.inference.trained_model import BEST, CARD, CheckpointError, TrainedModel, load_tensors
from pipelines.training.checkpoints import LAST
from tests.pipelines.training.states import equal
from transforms.preprocess import Preprocess
from transforms.utils.files import sha256_of


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-never-appear",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"work": Evil()}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        load_tensors(tmp_path / LAST)
    assert not os.path.exists("/tmp/should-never-appear")


def copy(straight, folder, change=None):
    folder.mkdir(exist_ok=True)
    card = json.loads((straight / CARD).read_text())
    if change is not None:
        change(card)
    (folder / CARD).write_text(json.dumps(card))
    (folder / BEST).write_bytes((straight / BEST).read_bytes())
    return folder / BEST


def test_a_trained_model_needs_nothing_but_its_two_files(straight, tmp_path, dataset):
    model = TrainedModel(copy(straight, tmp_path))
    assert not model.network.training
    assert model.labels == {0: "background", 1: "lung", 2: "liver"}
    assert model.class_names == ["lung", "liver"]
    assert model.patch_size == (12, 12, 12)
    assert model.preprocess.parameters() == Preprocess().parameters()
    assert equal(dict(model.network.state_dict()), dict(load_tensors(straight / BEST)))
    assert model.network(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 3, 4, 4, 4)
    model.require_labels({0: "background", 1: "lung", 2: "liver"})
    with pytest.raises(CheckpointError, match="are not those of the model"):
        model.require_labels({0: "background", 1: "liver", 2: "lung"})
    with pytest.raises(CheckpointError, match="with the regions of the training"):
        model.require_labels({0: "background", 1: "lung", 2: "liver"}, {"both": (1, 2), "liver": (2,)})


def test_weights_and_description_of_two_trainings_are_refused(straight, tmp_path):
    path = copy(straight, tmp_path)
    state = load_tensors(path)
    torch.save({key: value + 1 for key, value in state.items()}, path)
    with pytest.raises(CheckpointError, match=r"is not the file that model\.json describes"):
        TrainedModel(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("labels"),
        lambda card: card.update(labels=None),
        lambda card: card["preprocessing"].update(version=99),
        lambda card: card.update(patch_size="large"),
    ],
)
def test_a_description_that_is_none_is_refused(straight, tmp_path, change):
    with pytest.raises(CheckpointError, match=r"model\.json is not the description of a trained model"):
        TrainedModel(copy(straight, tmp_path, change))


def test_a_definition_that_does_not_fit_its_weights_is_refused(straight, tmp_path):
    path = copy(straight, tmp_path, lambda card: card["network"].update(features=7))
    with pytest.raises(CheckpointError, match=r"model\.pt does not fit the network of model\.json"):
        TrainedModel(path)


@pytest.mark.parametrize("name", [BEST, CARD])
def test_a_missing_file_says_how_to_get_one(straight, tmp_path, name):
    path = copy(straight, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing\); train one first"):
        TrainedModel(path)


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ({"_target_": "subprocess.Popen", "args": "true"}, "not a network"),
        ({"_target_": "torch.nn.Conv2d", "in_channels": "$__import__('os').getpid()"}, "expression"),
        ({"_target_": "no.such.Network"}, "not a network"),
    ],
)
def test_a_strangers_model_card_cannot_run_code(definition: dict, said: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    card = {
        "network": definition,
        "labels": {"0": "background", "1": "a"},
        "preprocessing": Preprocess().parameters(),
        "patch_size": [32, 32, 32],
        "sha256": sha256_of(tmp_path / "model.pt"),
    }
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=said):
        TrainedModel(tmp_path / "model.pt")
