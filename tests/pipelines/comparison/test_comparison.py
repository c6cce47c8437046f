"""Runs side by side: what is shared, what is said, and figures against independent computations."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipelines.comparison.comparison import ALL, compare
from pipelines.comparison.differences import config_differences, origin_differences
from pipelines.comparison.run_finder import RunError
from pipelines.comparison.run_results import RunResults
from pipelines.comparison.text_report import (
    as_text,
    classes_file,
    number,
    p_value,
    write_cases_csv,
    write_classes_csv,
)

NAN = float("nan")


def results(name: str, values, cases=None, classes=("left", "right"), metric="dice", **other) -> RunResults:
    table = np.asarray(values, float)
    given = {
        "run_id": name.ljust(32, "0"),
        "experiment": "lungs",
        "kind": "evaluation",
        "status": "FINISHED",
        "start_time": 1_700_000_000_000,
        "params": {},
        "tags": {"data.digest": "d" * 64},
        "split": "validation",
        **other,
    }
    cases = list(cases) if cases is not None else [f"case_{i}" for i in range(len(table))]
    return RunResults(name=name, classes=list(classes), cases=cases, values={metric: table}, **given)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    first = random.beta(20, 2, (24, 2))
    second = np.clip(first + random.normal(0.01, 0.02, (24, 2)), 0, 1)
    return first, second


def test_figures_against_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    first[4, 0] = NAN
    comparison = compare([results("a", first), results("b", second)])
    left, right, overall = comparison.rows
    kept = np.delete(np.arange(24), 4)
    assert (left.name, right.name, overall.name, left.other) == ("left", "right", ALL, 1)
    assert left.statistics.pairs == 23
    assert left.statistics.baseline == pytest.approx(first[kept, 0].mean())
    assert left.statistics.other == pytest.approx(second[kept, 0].mean())
    p = [
        stats.wilcoxon(second[kept, 0], first[kept, 0]).pvalue,
        stats.wilcoxon(second[:, 1], first[:, 1]).pvalue,
    ]
    assert [left.statistics.p, right.statistics.p] == pytest.approx(p)
    small, large = sorted(p)
    expected = {small: min(1, 2 * small), large: max(min(1, 2 * small), large)}
    assert [left.p_holm, right.p_holm] == pytest.approx([expected[p[0]], expected[p[1]]])
    # The mean over a case's classes takes only those that both runs have a value for.
    means = [np.array([r[i].mean() if i != 4 else r[i, 1] for i in range(24)]) for r in (first, second)]
    assert overall.statistics.difference == pytest.approx((means[1] - means[0]).mean())
    assert overall.p_holm == pytest.approx(stats.wilcoxon(means[1], means[0]).pvalue)


def test_p_values_are_corrected_over_classes_and_runs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    runs = [results("a", first), results("b", second), results("c", first + 0.001)]
    comparison = compare(runs)
    p = [row.statistics.p for row in comparison.rows if row.name != ALL]
    adjusted = [row.p_holm for row in comparison.rows if row.name != ALL]
    assert len(p) == 4
    assert adjusted[int(np.argmin(p))] == pytest.approx(min(1, 4 * min(p)))
    overall = [row for row in comparison.rows if row.name == ALL]
    assert min(row.p_holm for row in overall) == pytest.approx(2 * min(row.statistics.p for row in overall))


def test_cases_and_classes_are_joined_by_name_and_leftovers_are_said() -> None:
    first = results("a", [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], ["x", "y", "only_a"])
    second = results(
        "b", [[0.9, 0.31, 0.41], [0.8, 0.11, 0.21]], ["y", "x"], ["extra", "left", "right"], status="RUNNING"
    )
    second.tags = {"data.digest": "e" * 64, "git.dirty": "true"}
    second.split, second.kind = "test", "training"
    comparison = compare([first, second])
    assert (comparison.cases, comparison.classes) == (["x", "y"], ["left", "right"])
    assert comparison.values[1] - comparison.values[0] == pytest.approx(np.full((2, 2), 0.01))
    text = " | ".join(comparison.notices)
    for part in (
        "left out: 1 case of 'a' (a0000000) that not every run has: only_a",
        "left out: 1 class of 'b' (b0000000) that not every run has: extra",
        "different data (data.digest): 'a' (a0000000) dddddddddddd, 'b' (b0000000) eeeeeeeeeeee",
        "different splits: 'a' (a0000000) validation, 'b' (b0000000) test",
        "'b' (b0000000) is RUNNING",
        "the code of 'b' (b0000000) had uncommitted changes",
        "validation that chose its model",
    ):
        assert part in text
    assert all(
        " ".join(notice.split()) in " ".join(as_text(comparison).split()) for notice in comparison.notices
    )
    (few,) = compare([first, results("c", [[0.1, 0.2]] * 3, ["x", "y", "only_a"])]).notices
    assert few.startswith("3 cases are too few for a test")
    assert compare([results(name, [[0.1, 0.2]] * 6) for name in "ab"]).notices == []


def test_runs_without_anything_in_common_are_refused() -> None:
    first = results("a", [[0.1, 0.2]], ["x"])
    with pytest.raises(RunError, match=r"share no case: 'a' \(a0000000\) has x; 'b' \(b0000000\) has y"):
        compare([first, results("b", [[0.1, 0.2]], ["y"])])
    with pytest.raises(RunError, match="share no class"):
        compare([first, results("b", [[0.1]], ["x"], ["liver"])])
    with pytest.raises(RunError, match=r"has no hd95_mm, only dice: .* evaluate.json"):
        compare([first, first], "hd95_mm")
    with pytest.raises(RunError, match="no metric 'dicee'; there are dice"):
        compare([first, first], "dicee")


def test_worst_first_and_direction_of_the_metric() -> None:
    cases = ["gained", "lost", "same", "absent"]
    first = [[0.5, 0.5], [0.9, 0.9], [0.7, NAN], [NAN, NAN]]
    second = [[0.9, 0.6], [0.2, 0.8], [0.7, 0.0], [NAN, NAN]]
    comparison = compare([results("a", first, cases), results("b", second, cases)])
    changes = comparison.changes(1)
    assert [change.case for change in changes] == ["lost", "same", "gained"]
    assert changes[0].difference == pytest.approx(-0.4)
    assert changes[0].most == ("left", pytest.approx(-0.7))
    left, right, overall = comparison.rows
    assert (comparison.better(left), comparison.worse(left), left.statistics.equal) == (1, 1, 1)
    assert (right.statistics.only_other, right.statistics.neither) == (1, 1)
    assert comparison.one_sided(1) == [("same", "right", pytest.approx(NAN, nan_ok=True), 0.0)]
    assert overall.statistics.pairs == 3

    distances = compare(
        [results("a", first, cases, metric="hd95_mm"), results("b", second, cases, metric="hd95_mm")],
        "hd95_mm",
    )
    assert [change.case for change in distances.changes(1)] == ["gained", "same", "lost"]
    assert (distances.better(distances.rows[1]), distances.worse(distances.rows[1])) == (1, 1)
    text = as_text(distances)
    assert "lower is better" in text
    assert "1 case got worse" in text
    assert "  gained " in text.split("got worse")[1].split("got better")[0]


def test_volume_errors_are_compared_by_size() -> None:
    first, second = (
        results("a", [[-5.0, 1.0]], metric="volume_error_ml"),
        results("b", [[4.0, -2.0]], metric="volume_error_ml"),
    )
    comparison = compare([first, second], "volume_error_ml")
    assert (comparison.values[1] - comparison.values[0]).tolist() == [[-1.0, 1.0]]
    assert any("without their sign" in notice for notice in comparison.notices)
    assert comparison.better(comparison.rows[0]) == 1


def test_the_terminal_table(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    text = as_text(compare([results("a", first), results("b", second)]))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = [line for line in lines if line.startswith("left ")]
    difference = (second - first)[:, 0].mean()
    assert row.split()[:5] == [
        "left", "24", f"{first[:, 0].mean():.4f}", f"{second[:, 0].mean():.4f}", f"{difference:+.4f}",
    ]  # fmt: skip
    low, _, high = row.split()[5:8]
    assert float(low) < difference < float(high)
    better = int(((second - first).mean(1) > 0).sum())
    assert f"{better} cases got better" in text
    assert "configuration: no differences" in text


def test_many_classes_and_long_names_stay_readable() -> None:
    random = np.random.default_rng(1)
    classes = [f"structure with a rather long name {i:03d}" for i in range(105)]
    first = random.beta(20, 3, (40, 105))
    second = np.clip(first + random.normal(0, 0.02, first.shape), 0, 1)
    # One small difference that is certain must not be hidden behind large ones by chance.
    second[:, 50] = first[:, 50] - 0.0001
    first[random.random(first.shape) < 0.1] = NAN
    cases = [f"a_patient_with_a_very_long_identifier_{i}" for i in range(40)]
    params = {f"key_{i}": "x" * 300 for i in range(30)}
    runs = [
        results("a name of a run that is longer than any column is wide", first, cases, classes),
        results("b", second, cases, classes, params=params),
    ]
    text = as_text(compare(runs))
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) < 130
    assert "65 classes not shown" in text
    assert "…" in text
    assert "configuration: 30 differences" in text
    assert "and 18 more, see --html" in text
    row = text.split("better/worse\n")[1].splitlines()[0]
    assert "<0.0001" in row


def test_csv_holds_every_value_and_every_figure(tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    second[2, 1] = NAN
    comparison = compare([results("a, b", first), results("c", second), results("d", first)])
    path = tmp_path / "out.csv"
    write_cases_csv(path, comparison)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 48
    keys = ["1 a, b a, b0000", "2 c c0000000", "3 d d0000000", "2 minus 1", "3 minus 1"]
    assert list(rows[0]) == ["case", "class", "metric", *keys]
    assert [float(rows[3][key]) for key in keys] == pytest.approx(
        [first[1, 1], second[1, 1], first[1, 1], second[1, 1] - first[1, 1], 0], rel=1e-5, abs=1e-6
    )
    assert (rows[5]["2 c c0000000"], rows[5]["2 minus 1"], rows[5]["3 minus 1"]) == ("", "", "0")
    write_classes_csv(classes_file(path), comparison)
    with (tmp_path / "out_classes.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["run"], row["class"]) for row in table] == [
        (run, name) for run in ("c", "d") for name in ("left", "right", ALL)
    ]
    s = comparison.rows[1].statistics
    assert (int(table[1]["pairs"]), int(table[1]["only_baseline"])) == (23, 1)
    assert float(table[1]["difference"]) == pytest.approx(s.difference, rel=1e-5)
    assert float(table[1]["p_holm"]) == pytest.approx(comparison.rows[1].p_holm, rel=1e-5)


def test_numbers_as_text() -> None:
    assert [number(v, "dice") for v in (0.5, NAN, 1.0)] == ["0.5000", "n/a", "1.0000"]
    assert [number(v, "dice", True) for v in (0.5, -0.25, -0.00001, 0.0)] == [
        "+0.5000",
        "-0.2500",
        "0.0000",
        "0.0000",
    ]
    assert number(12.345, "hd95_mm") == "12.35" or number(12.345, "hd95_mm") == "12.34"
    assert [p_value(v) for v in (0.00001, 0.03, NAN)] == ["<0.0001", "0.0300", "n/a"]


def test_differences_of_config_and_origin() -> None:
    first = results(
        "a",
        [[0.1, 0.2]],
        params={"seed": "1", "epochs": "5", "run_name": "a", "network_def.features": "[8]", "old": "1"},
        tags={
            "mlflow.source.git.commit": "1" * 40,
            "version.torch": "2.13",
            "host": "h",
            "mlflow.user": "me",
        },
    )
    second = results(
        "b",
        [[0.1, 0.2]],
        params={"seed": "1", "epochs": "6", "run_name": "b", "network_def.features": "[16]", "new": "2"},
        tags={"mlflow.source.git.commit": "2" * 40, "version.torch": "2.13", "mlflow.user": "you"},
    )
    found = config_differences([first, second])
    assert [(d.name, d.values) for d in found] == [
        ("epochs", ["5", "6"]),
        ("new", [None, "2"]),
        ("old", ["1", None]),
        ("network_def.features", ["[8]", "[16]"]),
        ("run_name", ["a", "b"]),
    ]
    assert [(d.name, d.values) for d in origin_differences([first, second])] == [
        ("mlflow.source.git.commit", ["1" * 40, "2" * 40]),
        ("host", ["h", None]),
    ]
    text = as_text(compare([first, second]))
    assert "configuration: 5 differences" in text
    assert "  new: (none) | 2" in text
    assert math.isnan(compare([first, second]).rows[0].statistics.p)
