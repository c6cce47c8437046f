"""Stop anywhere and go on; files that are whole wherever a process ends."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.inference import trained_model
from pipelines.inference.trained_model import BEST, CARD, CheckpointError, load_tensors
from pipelines.training.checkpoints import EARLIER, LAST, CheckpointNotWrittenError, Checkpoints, load_state
from tests.file_systems import refuse_folder_sync, refuse_links
from tests.pipelines import small
from tests.pipelines.training.states import equal, without_times
from transforms.utils.files import sha256_of


def stopped(folder, dataset, at, monkeypatch, **overrides):
    """A training that ended by an error at an iteration."""
    path = small.config(folder, dataset, **overrides)
    monkeypatch.setenv("SMALL_STOP_AT", str(at))
    with pytest.raises(RuntimeError) as caught:
        small.run(path)
    assert isinstance(caught.value.__cause__, small.Interruption)
    monkeypatch.delenv("SMALL_STOP_AT")
    return path


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
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == -9, first.stderr
    assert load_tensors(tmp_path / "models" / LAST)["epoch"] == 2
    small.run(path)
    expected, found = (load_tensors(folder / LAST) for folder in (straight, tmp_path / "models"))
    for key in ("network", "average", "optimizer", "lr_scheduler", "ranks", "best"):
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


def test_the_same_command_after_the_end_begins_anew_beside_the_old_files(dataset, tmp_path):
    folder = tmp_path / "models"
    path = small.config(tmp_path, dataset, epochs=1)
    small.run(path)
    first = sha256_of(folder / BEST)
    small.run(path)
    small.run(small.config(tmp_path, dataset, epochs=1, ema=0.5))  # another training
    previous = sorted(p.name for p in (folder / "previous").iterdir())
    assert previous == ["001", "002"]
    assert sha256_of(folder / "previous" / "001" / BEST) == first
    assert json.loads((folder / "previous" / "001" / CARD).read_text())["sha256"] == first
    assert load_state(folder / "previous" / "002" / LAST)["finished"]
    assert [row["epoch"] for row in load_state(folder / LAST)["history"]] == [1]


def damaged(data, how):
    random = np.random.default_rng(len(how))
    if how == "empty":
        return b""
    if how == "half":
        return data[: len(data) // 2]
    if how == "zeros":  # as some file systems leave it after a power failure
        return data[: len(data) // 3] + bytes(len(data) - len(data) // 3)
    if how == "text":
        return b"nonsense"
    place = int(random.integers(len(data)))
    return data[:place] + bytes([data[place] ^ 1 << int(random.integers(8))]) + data[place + 1 :]


@pytest.mark.parametrize("how", ["empty", "half", "zeros", "text"])
def test_an_unreadable_checkpoint_is_replaced_by_the_one_before(dataset, straight, tmp_path, caplog, how):
    folder = tmp_path / "models"
    shutil.copytree(straight, folder)
    before = load_state(folder / EARLIER)
    content = damaged((folder / LAST).read_bytes(), how)
    (folder / LAST).write_bytes(content)
    checkpoints = Checkpoints(folder)
    found = checkpoints.latest()
    assert equal(found, before)
    (said,) = [record.message for record in caplog.records]
    assert f"{folder / LAST} cannot be read" in said
    assert f"{EARLIER}, is used instead" in said
    checkpoints.save({"network": {}, "epoch": 5})
    assert load_state(folder / LAST)["epoch"] == 5
    assert equal(load_state(folder / EARLIER), before), "the damaged file must not take its place"
    assert (folder / "unreadable.ckpt").read_bytes() == content


def test_any_flipped_bit_is_noticed_or_changes_nothing(straight, tmp_path):
    data = (straight / LAST).read_bytes()
    expected = load_state(straight / LAST)
    random = np.random.default_rng(0)
    noticed = 0
    for place in random.integers(len(data), size=150).tolist():
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(random.integers(8))
        (tmp_path / LAST).write_bytes(flipped)
        try:
            found = load_state(tmp_path / LAST)
        except CheckpointError:
            noticed += 1
        else:
            assert equal(found, expected), f"bit flipped in byte {place}"
    assert noticed > 50


def test_nothing_readable_is_an_error_and_everything_is_kept(straight, tmp_path):
    for name in (LAST, EARLIER):
        (tmp_path / name).write_bytes((straight / LAST).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read .*restore it or move it away"):
        Checkpoints(tmp_path).latest()
    assert (tmp_path / LAST).stat().st_size == (tmp_path / EARLIER).stat().st_size == 1000


def test_a_file_that_is_no_state_is_refused_and_kept(tmp_path):
    torch.save([1, 2, 3], tmp_path / LAST)
    with pytest.raises(CheckpointError, match="is not the state of a training; move it away"):
        Checkpoints(tmp_path).latest()
    torch.save({"network": {}, "epoch": 1, "work": "digest", "finished": False}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"another version of this program; .*--resume new"):
        Checkpoints(tmp_path).latest()
    torch.save({"network": {}, "epoch": 1, "work": "digest", "finished": True}, tmp_path / LAST)
    assert Checkpoints(tmp_path).latest()["finished"]


def weights(value):
    return {"w": torch.full((3,), float(value))}


def pair(folder):
    """The value of the weights and of the card in place, as a user finds them; checks that they belong together."""
    path = folder / BEST
    card = trained_model._card_of(path, folder / CARD)
    assert sha256_of(path) == card["sha256"]
    return float(load_tensors(path)["w"][0]), card["epoch"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(12))
def test_a_pair_is_whole_wherever_the_process_ends(tmp_path, monkeypatch, step):
    """Killed before any of the renames, links and syncs of replacing a model, and again in repairing."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_model(weights(1), {"epoch": 1})
    calls = 0

    def counted(real):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise Killed
            return real(*arguments)

        return call

    # No clean-up runs in a killed process.
    monkeypatch.setattr(Path, "unlink", lambda *arguments, **options: None)
    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "chmod")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    with contextlib.suppress(Killed):
        checkpoints.save_model(weights(2), {"epoch": 2})
    finished = calls <= step
    monkeypatch.undo()
    assert pair(tmp_path) in ((1.0, 1), (2.0, 2))
    assert finished or step < 11, "raise the number of steps: the last one was reached"
    expected = pair(tmp_path)
    Checkpoints(tmp_path).repair()
    assert pair(tmp_path) == expected
    assert Checkpoints(tmp_path).has_model()
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, BEST]
    if finished:
        assert expected == (2.0, 2)


@pytest.mark.parametrize("moved", range(4))
def test_files_are_set_aside_together(tmp_path, monkeypatch, moved):
    names = [LAST, EARLIER, BEST, CARD]
    for name in names:
        (tmp_path / name).write_text(name)
    real, calls = Path.replace, 0

    def replace(*arguments):
        nonlocal calls
        calls += 1
        if calls == moved + 1:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(Path, "replace", replace)
    with contextlib.suppress(Killed):
        Checkpoints(tmp_path).set_aside()
    monkeypatch.undo()
    Checkpoints(tmp_path).repair()
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, BEST, "previous"]
    assert [path.name for path in (tmp_path / "previous").iterdir()] == ["001"]
    assert sorted(path.name for path in (tmp_path / "previous" / "001").iterdir()) == sorted(names)


@pytest.mark.parametrize("links", [True, False])
def test_an_earlier_model_stays_until_there_is_a_new_one(tmp_path, monkeypatch, links):
    """A program that predicts with the model of a folder always finds one, whole and with its description."""
    if not links:
        refuse_links(monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_model(weights(1), {"epoch": 1})
    assert checkpoints.set_aside() == tmp_path / "previous" / "001"
    assert not checkpoints.has_model()
    assert pair(tmp_path) == pair(tmp_path / "previous" / "001") == (1.0, 1)
    # A start that was killed before its first model leaves nothing but its checkpoint.
    checkpoints.save({"network": {}, "epoch": 1})
    assert checkpoints.set_aside() == tmp_path / "previous" / "002"
    assert [path.name for path in (tmp_path / "previous" / "002").iterdir()] == [LAST]
    assert not checkpoints.has_model()
    assert checkpoints.set_aside() is None
    checkpoints.save_model(weights(2), {"epoch": 2})
    assert checkpoints.has_model()
    assert (pair(tmp_path), pair(tmp_path / "previous" / "001")) == ((2.0, 2), (1.0, 1))


def test_a_file_system_that_syncs_no_folders(tmp_path, monkeypatch):
    refused = refuse_folder_sync(monkeypatch, errno.EINVAL)
    checkpoints = Checkpoints(tmp_path)
    with checkpoints.held():
        for value in (1, 2):
            checkpoints.save({"network": {}, "epoch": value})
            checkpoints.save_model(weights(value), {"epoch": value})
        checkpoints.repair()
        assert checkpoints.latest()["epoch"] == 2
        assert pair(tmp_path) == (2.0, 2)
        assert checkpoints.set_aside() == tmp_path / "previous" / "001"
    assert refused


def test_a_folder_without_locks_is_trained_in_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(os, "lockf", refuse)
    with Checkpoints(tmp_path).held():
        pass
    assert "cannot be locked (No locks available)" in caplog.text
    assert "do not start a second training in this folder" in caplog.text
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(CheckpointNotWrittenError, match="cannot be written to"),
        Checkpoints(tmp_path / "file").held(),
    ):
        pass


HOLDER = """
import sys
from pipelines.training.checkpoints import Checkpoints
with Checkpoints(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_training_at_a_time_in_a_folder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=r"another training is writing to .*--bundle_root"):
        Checkpoints(tmp_path).held().__enter__()
    holder.kill()
    holder.communicate()
    with Checkpoints(tmp_path).held():
        pass


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
@pytest.mark.parametrize("what", ["state", "model"])
def test_a_full_disk_is_said_and_leaves_the_old_files_whole(tmp_path, what):
    import resource

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"network": {}, "epoch": 1})
    checkpoints.save_model(weights(1), {"epoch": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = {"w": torch.zeros(1 << 18)}
    save = {
        "state": lambda: checkpoints.save({"network": large, "epoch": 2}),
        "model": lambda: checkpoints.save_model(large, {"epoch": 2}),
    }[what]
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, old[1]))
    try:
        with pytest.raises(CheckpointNotWrittenError) as caught:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(tmp_path) in str(caught.value)
    assert "free some room there" in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
