"""A training writes no card that it could not open."""

import shutil
import sys

import pytest
from mlflow.tracking import MlflowClient

from pipelines.config.errors import user_error
from pipelines.inference.trained_model import CheckpointError
from tests.pipelines import small


def test_a_training_whose_model_could_not_be_opened_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    dataset = small.write_dataset(tmp_path / "data")
    path = small.config(tmp_path / "run", dataset, patch_size=[2, 2, 2])
    with pytest.raises(RuntimeError) as caught:
        small.run(path)
    known = user_error(caught.value)
    assert isinstance(known, CheckpointError)
    assert "could not be opened again: in its model.json, patch_size [2, 2, 2] is 8 voxels" in str(known)
    assert not (tmp_path / "run" / "models").exists()


def test_a_training_whose_experiment_no_model_may_name_ends_before_its_first_iteration(
    tmp_path, template, monkeypatch
):
    """By its id alone nothing here knows what it is called before MLflow says so."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    client = MlflowClient(f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}")
    number = client.create_experiment("two\nlines", (tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    path = small.config(tmp_path / "run", small.write_dataset(tmp_path / "data"), tracked=True)
    with pytest.raises(RuntimeError) as caught:
        small.run(path)
    known = user_error(caught.value)
    assert isinstance(known, CheckpointError)
    assert "could not be opened again: in its model.json, experiment is 'two\\nlines'" in str(known)
    (run,) = client.search_runs([number])
    assert run.info.status == "FAILED"
    assert client.get_metric_history(run.info.run_id, "train_loss") == []
