"""The folds of a cross-validation as children of one MLflow run."""

import shutil

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from tests.pipelines import small


def test_folds_are_children_of_one_run_with_mean_and_spread(template, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    dataset = small.write_dataset(tmp_path / "data", training=5, validation=0)
    data = "$pipelines.open_dataset(@dataset_dir, fold=@fold)"
    given = {"tracked": True, "epochs": 1, "data": data, "workflow__pictures": 0}

    def train(fold, **overrides):
        small.run(small.config(tmp_path / f"fold{fold}", dataset, fold=fold, **given, **overrides))

    def runs(kind):
        (experiment,) = client.search_experiments(filter_string="name = 'small'")
        return client.search_runs([experiment.experiment_id], f"tags.`segbundles.kind` = '{kind}'")

    train(0)
    (parent,) = runs("cross-validation")
    assert parent.data.metrics["folds"] == 1
    assert "best_val_mean_dice_std" not in parent.data.metrics
    train(1)
    train(2)
    (parent,) = runs("cross-validation")
    assert parent.info.status == "FINISHED"
    children = runs("training")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.data.tags["fold"] for run in children) == ["0", "1", "2"]
    assert parent.data.metrics["folds"] == 3
    for name in ("best_val_mean_dice", "best_val_dice_lung", "best_val_dice_liver"):
        values = [run.data.metrics[name] for run in children]
        expected = {
            "": np.mean(values),
            "_std": np.std(values, ddof=1),
            "_min": min(values),
            "_max": max(values),
        }
        for ending, value in expected.items():
            assert parent.data.metrics[name + ending] == pytest.approx(value), name + ending
    train(0, train__trainer__max_grad_norm=0.5)
    assert len(runs("cross-validation")) == 2, "another config is another cross-validation"
