"""All cases in numbers, and what was missed."""

import math

import numpy as np
import pytest
from scipy import stats

from pipelines.metrics.names import METRICS
from pipelines.metrics.statistics import RESAMPLES
from pipelines.metrics.summary import (
    ABSENT,
    FALSE_POSITIVE,
    MISSED,
    PRESENT,
    figures,
    outcome,
    summarise,
    table,
    value_of,
)
from pipelines.metrics.surfaces import surface_metrics
from tests.pipelines.metrics.scored import CASES, NAMES, full_cases, scored


def test_what_has_no_value_is_nan_in_every_form():
    case = {"case": "a", "dice": {"liver": 0.5, "cyst": None, "stone": math.nan}}
    assert value_of(case, "dice", "liver") == 0.5
    assert all(math.isnan(value_of(case, "dice", name)) for name in ("cyst", "stone", "unknown"))
    assert math.isnan(value_of(case, "hd95_mm", "liver"))


def test_what_is_absent_missed_or_too_much_is_told_apart():
    #            right, missed, too much, in neither
    reference = [1, 1, 2, 2, 0, 0]
    prediction = [1, 1, 0, 0, 3, 3]
    names = ["right", "missed", "too much", "neither"]
    found = scored(prediction, reference, names) | {"case": "a"}
    assert [outcome(found, name) for name in names] == [PRESENT, MISSED, FALSE_POSITIVE, ABSENT]
    assert [found["dice"][n] for n in names[:3]] == [1, 0, 0]
    assert [found["sensitivity"][n] for n in names[:2]] == [1, 0]
    assert found["precision"]["too much"] == 0
    assert [found["volume_error_ml"][n] for n in names[:3]] == [0, -1, 1]
    undefined = [found["sensitivity"]["too much"], found["precision"]["missed"]]
    undefined += [found[metric]["neither"] for metric in list(METRICS)[:5]]
    assert all(map(math.isnan, undefined))
    surfaces = surface_metrics(
        np.array(prediction).reshape(6, 1, 1), np.array(reference).reshape(6, 1, 1), names, np.eye(4), 1.0
    )
    assert [surfaces["nsd"][n] for n in names[:3]] == [1, 0, 0]
    assert math.isnan(surfaces["nsd"]["neither"])
    assert surfaces["hd95_mm"]["right"] == 0
    assert all(math.isnan(surfaces[m][n]) for m in ("hd95_mm", "msd_mm") for n in names[1:])
    summary = summarise([found | surfaces], names)
    assert [summary[key] for key in ("absent", "missed", "false_positives")] == [1, 1, 1]
    assert summary["classes"]["missed"]["missed"] == 1
    assert summary["classes"]["missed"]["hd95_mm"]["n"] == 0
    assert summary["classes"]["too much"]["false_positive_ml"] == 1.0
    assert summary["mean_dice"] == pytest.approx(1 / 3), "a false positive and a miss count as Dice 0"


def test_the_summary_leaves_absent_structures_out():
    summary = summarise(CASES, NAMES)
    liver = {"mean": 0.8, "median": 0.8, "min": 0.7, "max": 0.9, "std": 0.1, "n": 3}
    assert summary["classes"]["liver"]["dice"] == pytest.approx(liver)
    assert summary["classes"]["cyst"]["dice"]["mean"] == 0.25
    assert summary["classes"]["cyst"]["absent"] == 1
    assert summary["classes"]["stone"]["dice"]["n"] == 0
    assert summary["mean_dice"] == summary["mean"]["dice"] == pytest.approx((0.8 + 0.25) / 2)
    assert summary["missed"] is None, "Dice alone does not tell a miss from a false positive"
    assert math.isnan(summarise([], NAMES)["mean_dice"])
    lines = table(summary).splitlines()
    assert [line.split()[0] for line in lines] == ["class", *NAMES, "mean"]
    assert lines[1].split()[1:] == ["0.8000", "0.8000", "0.7000", "3"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert table(summarise(CASES, []))
    assert figures(summary) == pytest.approx({"mean_dice": 0.525, "dice_liver": 0.8, "dice_cyst": 0.25})


def many(seed, number=25):
    random = np.random.default_rng(seed)
    cases = []
    for index in range(number):
        dice = dict(zip(NAMES, random.beta(8, 2, 3).tolist(), strict=True))
        if index % 4 == 0:
            dice["cyst"] = math.nan
        cases.append({"case": f"c{index}", "dice": dice})
    return cases


def test_the_interval_of_a_class_is_scipys():
    summary = summarise(many(1), NAMES, intervals=True)
    values = np.array([case["dice"]["liver"] for case in many(1)])
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=200, rng=np.random.default_rng(0)
    ).confidence_interval
    assert summary["classes"]["liver"]["dice"]["ci95"] == pytest.approx(list(expected))
    assert summarise(many(1), NAMES, intervals=True) == summary, "the same samples every time"
    low, high = summary["mean_ci95"]["dice"]
    assert low < summary["mean_dice"] < high
    widest = max(row["dice"]["ci95"][1] - row["dice"]["ci95"][0] for row in summary["classes"].values())
    assert high - low < widest, "the mean of several classes is surer than each"


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth, held = 0.8, 0
    for seed in range(100):
        cases = many(seed, 30)
        low, high = summarise(cases, ["liver"], intervals=True)["classes"]["liver"]["dice"]["ci95"]
        held += low <= truth <= high
    assert 87 <= held <= 99


def test_intervals_of_few_or_equal_cases():
    one = summarise(CASES[:1], NAMES, intervals=True)
    assert one["classes"]["liver"]["dice"]["ci95"] is None
    assert one["classes"]["stone"]["dice"]["ci95"] is None
    assert one["mean_ci95"] == {"dice": None}
    equal = summarise([CASES[0], CASES[0] | {"case": "b"}], NAMES, intervals=True)
    assert equal["classes"]["liver"]["dice"]["ci95"] == [0.9, 0.9]
    assert table(one)
    assert "0.9000 to 0.9000" in table(equal)


def test_a_full_table_names_misses_and_false_positives():
    text = table(summarise(full_cases(), NAMES, intervals=True))
    assert "hd95_mm" in text
    assert text.splitlines()[0].endswith("missed  false positive")
    assert text.splitlines()[1].split()[-2:] == ["1", "0"]


def test_how_well_the_confidence_tells_the_dice():
    sure = ({"liver": 0.95, "cyst": math.nan}, {"liver": 0.8, "cyst": 0.6}, {"liver": 0.85, "cyst": 0.3})
    cases = [case | {"confidence": {**row, "stone": None}} for case, row in zip(CASES, sure, strict=True)]
    summary = summarise(cases, NAMES)
    assert summary["confidence"]["classes"]["liver"] == {
        "n": 3,
        "spearman": pytest.approx(1.0),
        "mean_absolute_error": pytest.approx(0.2 / 3),
    }
    assert summary["confidence"]["classes"]["cyst"]["mean_absolute_error"] == pytest.approx(0.2)
    assert summary["confidence"]["classes"]["stone"]["n"] == 0
    found = {key: value for key, value in figures(summary, "t_").items() if "confidence" in key}
    assert found == {
        "t_confidence_spearman": pytest.approx(1.0),
        "t_confidence_error": pytest.approx((0.2 / 3 + 0.2) / 2),
        "t_confidence_spearman_liver": pytest.approx(1.0),
        "t_confidence_error_liver": pytest.approx(0.2 / 3),
        "t_confidence_error_cyst": pytest.approx(0.2),
    }
    assert "confidence" not in summarise(CASES, NAMES)
