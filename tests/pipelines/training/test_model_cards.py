"""A training writes no card that it could not open."""

import shutil
import sys

import pytest
from mlflow.tracking import MlflowClient

from pipelines.config.errors import user_error
from pipelines.inference.model_card import read_card
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


def test_a_model_knows_what_its_training_cases_look_like(tmp_path):
    small.run(small.config(tmp_path / "run", small.write_dataset(tmp_path / "data"), epochs=1))
    found = read_card(tmp_path / "run" / "models" / "model.json")["training_data"]
    assert (found["cases"], found["orientations"]) == (3, {"RAS": 3})
    assert [each["high"] for each in found["spacing"]] == [1.0, 1.0, 1.0]
    assert [each["low"] for each in found["extent"]] == list(small.SIZE)
    assert sorted(found["volumes"]) == ["liver", "lung"]
    (channel,) = found["channels"]
    assert (channel["hounsfield"], channel["inside"]["99.5"]) == (True, 200.0)


def test_a_training_does_without_what_its_cases_look_like(tmp_path, caplog):
    """All it needs lies in its patch store, where nothing else can be written."""
    dataset = small.write_dataset(tmp_path / "data")
    (dataset / "store").mkdir()
    (dataset / "store" / "fingerprints").write_text("no folder", encoding="utf-8")
    small.run(small.config(tmp_path / "run", dataset, epochs=1))
    assert "training_data" not in read_card(tmp_path / "run" / "models" / "model.json")
    assert "model.json gets no summary of the training cases" in caplog.text
    assert str(dataset / "store" / "fingerprints") in caplog.text
