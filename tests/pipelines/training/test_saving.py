"""When the files of a training are written, and what a full disk costs."""

import os
import resource

import pytest
from ignite.engine import Events

from pipelines.training.checkpoints import LAST, CheckpointNotWrittenError, Checkpoints, load_state
from pipelines.training.saving import Saver
from tests.pipelines import small
from tests.pipelines.training.stopped import At, error_of, require_the_same


def test_ranks_that_write_nothing_ask_for_no_checkpoint(tmp_path):
    """They would at every step, since no write ever sets their time back."""
    savers = [Saver(Checkpoints(tmp_path), 0, lambda: None, enabled=enabled) for enabled in (True, False)]
    assert [saver.due() for saver in savers] == [True, False]


def test_checkpoints_by_time(dataset, tmp_path, monkeypatch):
    written = []
    real = Checkpoints.save

    def save(self, state):
        written.append(state["iteration"])
        return real(self, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    small.run(small.config(tmp_path / "a", dataset, epochs=1))
    assert written == [3, 3], "after the epoch, and when all is done"
    written.clear()
    small.run(small.config(tmp_path / "b", dataset, epochs=1, checkpoint_minutes=0))
    assert written == [1, 2, 3, 3, 3]
    error = error_of(small.config(tmp_path / "c", dataset, checkpoint_minutes=-1))
    assert "checkpoint_minutes is -1" in str(error)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_disk_that_is_full_for_a_while_costs_nothing(
    straight_forms, dataset, tmp_path, monkeypatch, caplog
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    path = small.config(tmp_path, dataset, val_interval=2)
    At(monkeypatch, Events.EPOCH_STARTED, 1, lambda: limit(4096))
    At(monkeypatch, Events.EPOCH_STARTED, 4, lambda: limit(soft))
    try:
        small.run(path)
    finally:
        limit(soft)
    require_the_same(straight_forms["plain"], tmp_path / "models")
    warnings = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(warnings) == 3
    assert all("free some room there" in text and "continues" in text for text in warnings)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_disk_that_stays_full_fails_the_training_and_loses_no_older_file(
    straight_forms, dataset, tmp_path, monkeypatch
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = small.config(tmp_path, dataset, val_interval=2)
    At(monkeypatch, Events.EPOCH_STARTED, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard)))
    try:
        error = error_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, CheckpointNotWrittenError)
    assert load_state(tmp_path / "models" / LAST)["epoch"] == 3
    assert Checkpoints(tmp_path / "models").has_model()
    assert not [name for name in os.listdir(tmp_path / "models") if "tmp" in name or "next" in name]
    monkeypatch.undo()
    small.run(path)
    require_the_same(straight_forms["plain"], tmp_path / "models")
