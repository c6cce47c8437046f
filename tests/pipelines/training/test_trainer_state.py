"""The state of a trainer in its checkpoint."""

import shutil
import sys

import pytest
from mlflow.tracking import MlflowClient

from tests.pipelines import small
from tests.pipelines.tracked_runs import patient


def test_an_iteration_within_an_accumulation_window_tells_the_norm_of_the_step_before(
    template, tmp_path, monkeypatch
):
    """Also where that step was taken by a process that has ended since."""
    patient(monkeypatch)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    uri = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    options = {"epochs": 1, "patches_per_epoch": 8, "checkpoint_minutes": 0}
    options["train__trainer__accumulation_steps"] = 2
    path = small.config(tmp_path / "out", small.write_dataset(tmp_path / "data"), tracked=True, **options)
    monkeypatch.setenv("SMALL_STOP_AT", "3")
    with pytest.raises(Exception, match="workflow"):
        small.run(path)
    monkeypatch.delenv("SMALL_STOP_AT")
    small.run(path)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    norms = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "grad_norm")}
    assert sorted(norms) == [2, 3, 4]
    assert norms[2] == norms[3]
