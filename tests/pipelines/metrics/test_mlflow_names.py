"""Names of metrics that MLflow takes, of which two that differ never become one."""

import json
import re
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import _validate_metric_name

from pipelines.comparison.run_finder import RunFinder
from pipelines.comparison.run_results import read_results
from pipelines.metrics.mlflow_names import Keys, metric_names
from pipelines.metrics.summary import figures, summarise
from pipelines.tracking.run import Tracking
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["liver", "left lung"], ["liver", "left lung"]),
        (["GTV (1)", "spleen"], ["GTV _1_", "spleen"]),
        (["GTV (1)", "GTV [1]"], ["GTV _lpar_1_rpar_", "GTV _lsqb_1_rsqb_"]),
        (["<10 mm", ">10 mm", "liver"], ["_lt_10 mm", "_gt_10 mm", "liver"]),
        (["a/", "b//c"], ["a_", "b__c"]),
    ],
)
def test_two_classes_are_two_metrics(classes, expected):
    found = metric_names(classes)
    assert list(found.values()) == expected
    assert metric_names(classes[::-1]) == found, "in whichever order"


@given(st.lists(st.text(st.sampled_from("a(<[>]) _/.é\u0942x0123456789lt"), min_size=1), unique=True))
def test_any_classes_stay_apart_and_are_taken(classes):
    found = metric_names(classes)
    assert len(set(found.values())) == len(classes)
    for key in found.values():
        _validate_metric_name(f"best_val_dice_{key}_std")


@given(st.lists(st.text(st.sampled_from("a([ /"), max_size=300), unique=True, min_size=1))
def test_any_names_of_one_run_have_keys_of_their_own(names):
    keys = Keys()
    found = [keys.of(name) for name in names]
    assert len(set(found)) == len(names)
    assert [keys.of(name) for name in names] == found
    assert all(len(key) <= 250 and re.fullmatch(r"[/\w.\- :]*", key) for key in found)


def test_long_classes_that_differ_at_their_end_stay_apart():
    found = metric_names([f"{'x' * 400}{end}" for end in "ab"])
    assert len(set(found.values())) == 2
    assert max(map(len, found.values())) <= 200


def test_the_figures_of_an_evaluation_have_both():
    classes = ["<10 mm", ">10 mm"]
    cases = [{"case": "a", "dice": {"<10 mm": 0.25, ">10 mm": 0.75}}]
    assert figures(summarise(cases, classes)) == {
        "mean_dice": 0.5,
        "dice__lt_10 mm": 0.25,
        "dice__gt_10 mm": 0.75,
    }


@pytest.fixture
def uri(template, tmp_path, monkeypatch):
    for name in ("RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    patient(monkeypatch)
    found = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found)
    return found


def test_a_training_and_its_results_have_both_classes(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    data = small.write_dataset(tmp_path / "data")
    description = json.loads((data / "dataset.json").read_text())
    description["labels"] = {"background": 0, "GTV (1)": 1, "GTV [1]": 2}
    (data / "dataset.json").write_text(json.dumps(description))
    parser = small.run(small.config(tmp_path / "out", data, tracked=True, epochs=1))
    evaluator = parser.get_parsed_content("validate#evaluator")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    summary = summarise(evaluator.state.cases, ["GTV (1)", "GTV [1]"])
    mean = {name: row["dice"]["mean"] for name, row in summary["classes"].items()}
    for beginning in ("val_dice_", "best_val_dice_"):
        assert run.data.metrics[f"{beginning}GTV _lpar_1_rpar_"] == mean["GTV (1)"]
        assert run.data.metrics[f"{beginning}GTV _lsqb_1_rsqb_"] == mean["GTV [1]"]
    results = read_results(RunFinder(uri), run)
    assert results.classes == ["GTV (1)", "GTV [1]"]


def test_parameters_of_two_names_are_two(uri):
    with Tracking("e", uri=uri, system_metrics=None) as tracking:
        run_id = tracking.start()
        tracking.params({"weight.GTV (1)": "0.5", "weight.GTV [1]": "0.25"})
    params = MlflowClient(uri).get_run(run_id).data.params
    assert params == {"weight.GTV _1_": "0.5", "weight.GTV _lsqb_1_rsqb_": "0.25"}


def test_the_spread_over_folds_is_not_taken_for_another_class(uri):
    """Classes called liver and liver_max: the largest Dice of the one is not the mean of the other."""
    parent = {"key": "k", "name": "folds", "tags": {}, "spread": ["best_"]}
    for fold, (liver, other) in enumerate([(0.25, 0.75), (0.5, 1.0)]):
        with Tracking("e", f"fold {fold}", uri, system_metrics=None) as tracking:
            tracking.start(parent=parent, tags={"fold": str(fold)})
            tracking.metrics({"best_liver": liver, "best_liver_max": other}, 1)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    (run,) = client.search_runs([experiment], "attributes.run_name = 'folds'")
    metrics = run.data.metrics
    assert (metrics["best_liver"], metrics["best_liver.max"], metrics["best_liver_max"]) == (
        0.375,
        0.5,
        0.875,
    )
    assert (metrics["best_liver_max_max"], metrics["best_liver_max_min"]) == (1.0, 0.75)
