"""Stop anywhere and go on; a model that says what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.checkpoints import BEST, CARD, LAST, CheckpointError, Checkpoints, TrainedModel, load_tensors
from pipelines.files import sha256_of
from pipelines.preprocess import Preprocess
from tests.pipelines import small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # preflight() replaces it
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """The folder of a training that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    small.run(small.config(folder, dataset))
    return folder / "models"


def stopped(folder, dataset, at, monkeypatch, **overrides):
    """A training that ended by an error at an iteration."""
    path = small.config(folder, dataset, **overrides)
    monkeypatch.setenv("SMALL_STOP_AT", str(at))
    with pytest.raises(RuntimeError) as caught:
        small.run(path)
    assert isinstance(caught.value.__cause__, small.Interruption)
    monkeypatch.delenv("SMALL_STOP_AT")
    return path


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def without_times(state):
    history = [{k: v for k, v in row.items() if k != "epoch_seconds"} for row in state["history"]]
    return {**state, "history": history}


@pytest.mark.parametrize("at", [4, 8])
def test_a_stopped_training_ends_as_one_never_stopped(straight, dataset, tmp_path, monkeypatch, at):
    """3 iterations an epoch: 4 stops at the start of the second, 8 in the middle of the third."""
    path = stopped(tmp_path, dataset, at, monkeypatch)
    state = load_tensors(tmp_path / "models" / LAST)
    assert state["epoch"] == (at - 1) // 3
    assert not state["finished"]
    torch.manual_seed(at)  # a new process has another random state
    parser = small.run(path)
    trainer = parser.get_parsed_content("train#trainer")
    assert trainer.state.epoch == 4
    assert trainer.state.iteration == 12
    expected, found = (load_tensors(folder / LAST) for folder in (straight, tmp_path / "models"))
    assert [row["epoch"] for row in found["history"]] == [1, 2, 3, 4]
    for key in expected:
        assert equal(without_times(expected)[key], without_times(found)[key]), key
    assert equal(load_tensors(straight / BEST), load_tensors(tmp_path / "models" / BEST))
    cards = [json.loads((folder / CARD).read_text()) for folder in (straight, tmp_path / "models")]
    for card in cards:
        del card["sha256"]
    assert cards[0] == cards[1]
    assert not (tmp_path / "models" / "previous").exists()


def test_a_killed_process_goes_on_in_another(straight, dataset, tmp_path):
    path = small.config(tmp_path, dataset, num_workers=1)  # workers do not change what is drawn
    command = [sys.executable, "-m", "tests.pipelines.small", str(path)]
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "SMALL_STOP_AT": "8", "SMALL_STOP_BY": "SIGKILL", "OMP_NUM_THREADS": threads}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert first.returncode == -9, first.stderr
    assert load_tensors(tmp_path / "models" / LAST)["epoch"] == 2
    small.run(path)
    expected, found = (load_tensors(folder / LAST) for folder in (straight, tmp_path / "models"))
    for key in ("network", "average", "optimizer", "lr_scheduler", "rng", "best"):
        assert equal(expected[key], found[key]), key


def test_what_a_checkpoint_holds(straight):
    state = load_tensors(straight / LAST)
    assert state["finished"]
    assert state["epoch"] == 4
    assert state["lr_scheduler"]["last_epoch"] == 12
    assert int(state["average"]["n_averaged"]) == 12
    assert len(state["history"]) == 4
    assert {"epoch_loss", "val_mean_dice", "val_dice_lung"} <= set(state["history"][0])
    assert state["best"] == max(row["val_mean_dice"] for row in state["history"])
    # the weights are plain: a network of the same definition takes them, no wrapper's prefix
    small.Tiny(3).load_state_dict(load_tensors(straight / BEST))


def test_the_best_weights_are_those_of_the_best_epoch(straight, dataset):
    state, card = load_tensors(straight / LAST), json.loads((straight / CARD).read_text())
    dice = [row["val_mean_dice"] for row in state["history"]]
    assert card["epoch"] == 1 + dice.index(max(dice))
    scores = card["validation"][0]["dice"].values()
    assert sum(scores) / len(scores) == pytest.approx(max(dice))


def test_a_worse_epoch_after_going_on_leaves_the_best_model(dataset, tmp_path, monkeypatch):
    path = stopped(tmp_path, dataset, 4, monkeypatch)
    folder = tmp_path / "models"
    before = (folder / BEST).read_bytes()
    state = load_tensors(folder / LAST)
    state["best"] = 2.0
    torch.save(state, folder / LAST)
    small.run(path)
    assert (folder / BEST).read_bytes() == before


def test_without_validation_the_last_weights_are_kept(dataset, tmp_path):
    small.run(small.config(tmp_path, dataset, val_interval=0, epochs=2, ema=None))
    folder = tmp_path / "models"
    card = json.loads((folder / CARD).read_text())
    assert card["epoch"] == 2
    assert "validation" not in card
    last = load_tensors(folder / LAST)
    assert last["average"] is None
    assert equal(dict(load_tensors(folder / BEST)), dict(last["network"]))


def test_a_finished_or_changed_training_begins_anew_beside_the_old_files(dataset, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    path = small.config(tmp_path, dataset, epochs=1)
    small.run(path)
    first = sha256_of(folder / BEST)
    small.run(path)  # finished before
    stopped(tmp_path, dataset, 5, monkeypatch, epochs=3)
    small.run(small.config(tmp_path, dataset, epochs=3, ema=0.5))  # another training
    previous = sorted(p.name for p in (folder / "previous").iterdir())
    assert previous == ["001", "002", "003"]
    assert sha256_of(folder / "previous" / "001" / BEST) == first
    assert json.loads((folder / "previous" / "001" / CARD).read_text())["sha256"] == first
    assert load_tensors(folder / "previous" / "003" / LAST)["epoch"] == 1
    assert [row["epoch"] for row in load_tensors(folder / LAST)["history"]] == [1, 2, 3]


def test_more_epochs_go_on_and_resume_can_be_declined(dataset, tmp_path, monkeypatch):
    path = stopped(tmp_path, dataset, 5, monkeypatch, epochs=2, val_interval=0)
    small.run(path, epochs=3)
    assert load_tensors(tmp_path / "models" / LAST)["epoch"] == 3
    assert not (tmp_path / "models" / "previous").exists()
    path = stopped(tmp_path, dataset, 5, monkeypatch, workflow__resume=False, epochs=2, val_interval=0)
    small.run(path)
    assert len(list((tmp_path / "models" / "previous").iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 cut off", b"nonsense", "half", "other"],
    ids=["empty", "zip", "text", "half", "other"],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_kept(straight, tmp_path, content):
    data = (straight / LAST).read_bytes()
    path = tmp_path / LAST
    if content == "other":
        torch.save([1, 2, 3], path)
    else:
        path.write_bytes(data[: len(data) // 2] if content == "half" else content)
    before = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"last\.pt .*(restore it or move it away|move it away|not a checkpoint)"
    ):
        Checkpoints(tmp_path, "work").unfinished(10)
    assert path.read_bytes() == before


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-never-appear",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"work": Evil()}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
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
