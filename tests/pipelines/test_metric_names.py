"""Names of metrics that MLflow takes, of which two that differ never become one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from pipelines.metric_names import Keys, metric_names
from pipelines.metrics import figures, summarise


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
