"""A training killed where no checkpoint can tell of it: before the first one, and after everything is done."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from mlflow.tracking import MlflowClient

from pipelines.training.checkpoints import LAST, load_state
from pipelines.utils.locks import Lock
from tests.e2e.commands import REPOSITORY
from tests.pipelines import small

KILLED = -signal.SIGKILL
BEFORE_A_CHECKPOINT = {
    "before the journal": "Journal.create = die",
    "before MLflow has the run": "shipping.connect = die",
    "when the run is open": "die_after(tracking.Tracking, 'start')",
    "in the first iteration": "training.Training._on_iteration = die",
    "before the first checkpoint": "training.Checkpoints.save = die",
}
FINISHED = "is finished, although its process was killed before it exited"


@pytest.fixture
def place(template, tmp_path):
    """Starts a training several times, see `tests.pipelines.starting`; its MLflow, and the folder of its model."""
    uri = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    path = small.config(tmp_path / "out", small.write_dataset(tmp_path / "data"), tracked=True, epochs=1)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "SEGBUNDLES_SPOOL", "MLFLOW_RUN_ID")
    }
    environment |= {"MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}

    def start(*starts):
        words = ["-m", "tests.pipelines.starting", str(path), str(tmp_path), json.dumps(starts)]
        done = subprocess.run(
            [sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = [(tmp_path / str(number)).read_text() for number in range(len(starts))]
        return list(zip(json.loads(done.stdout.splitlines()[-1]), said, strict=True))

    return start, MlflowClient(uri), tmp_path / "out" / "models"


def runs(client):
    return client.search_runs([client.get_experiment_by_name("small").experiment_id])


def test_killed_before_the_first_checkpoint_it_goes_on_in_the_same_run(place):
    """Wherever it is killed, and however often."""
    start, client, models = place
    *killed, (code, said) = start(*((dies, "") for dies in BEFORE_A_CHECKPOINT.values()), ("", ""))
    assert [code for code, _ in killed] == [KILLED] * len(BEFORE_A_CHECKPOINT)
    assert code == 0, said
    assert "cannot be continued" not in said
    assert "resuming after" not in said, "there was no checkpoint"
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert "error" not in found.data.tags
    assert load_state(models / LAST)["run_id"] == found.info.run_id
    assert sorted(m.step for m in client.get_metric_history(found.info.run_id, "train_loss")) == [1, 2, 3]
    assert not (models.parent.parent / "mlflow_spool").exists()


def test_killed_after_it_was_finished_it_does_not_train_again(place):
    """An error behind the training, as in a bundle's `finalize`, is the same to whoever started it."""
    start, client, models = place
    starts = [("", "die()"), ("", ""), ("", ""), ("", "raise SystemError('later')"), ("", "")]
    codes, said = zip(*start(*starts), strict=True)
    assert codes == (KILLED, 0, 0, 1, 0)
    # What is told once is told: the third is another training, as after any that is finished.
    assert [FINISHED in text for text in said] == [False, True, False, False, True]
    assert "best validation, epoch 1" in said[1]
    assert [found.info.status for found in runs(client)] == ["FINISHED"] * 3
    assert len(client.search_model_versions("name = 'small'")) == 3
    assert sorted(path.name for path in (models / "previous").iterdir()) == ["001", "002"]
    assert (models / ".lock").read_bytes() == b""


def test_what_is_left_of_a_finished_training_is_checked_before_it_is_told(place):
    start, _, models = place
    assert start(("", "die()"))[0][0] == KILLED
    state = load_state(models / LAST)
    del state["epochs"]
    torch.save(state, models / LAST)
    ((code, said),) = start(("", ""))
    assert code == 1
    assert "is not the state of a training (epochs is missing); move it away" in said
    assert FINISHED not in said


def test_a_training_that_ended_by_itself_begins_anew(place):
    """And so does one that failed before its first checkpoint: the next may have other code."""
    start, client, models = place
    fails = "training.Training._on_iteration = lambda *given: 1 / 0"
    assert [code for code, _ in start((fails, ""), ("", ""), ("", ""))] == [1, 0, 0]
    assert sorted(found.info.status for found in runs(client)) == ["FAILED", "FINISHED", "FINISHED"]
    assert [path.name for path in (models / "previous").iterdir()] == ["001"]
    assert (models / ".lock").read_bytes() == b""


def test_a_note_is_for_those_who_hold_the_lock(tmp_path):
    lock = Lock(tmp_path / ".lock")
    assert lock.note() == b""
    assert lock.take()
    lock.write_note(b"something longer")
    lock.write_note(b"{}")
    lock.release()
    assert lock.note() == b""
    assert lock.take()
    assert lock.note() == b"{}"
    lock.release()
