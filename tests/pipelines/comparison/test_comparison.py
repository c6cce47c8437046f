"""Runs side by side: what is shared, what is said, and figures against independent computations."""

import numpy as np
import pytest
from scipy import stats

from pipelines.comparison.comparison import ALL, compare
from pipelines.comparison.run_finder import RunError
from pipelines.comparison.text_report import (
    as_text,
)
from tests.pipelines.comparison.some_results import results

NAN = float("nan")


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
        "'b' (b0000000) has the status RUNNING",
        "the code of 'b' (b0000000) had uncommitted changes",
        "validation that selected its model",
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
    assert any("absolute values" in notice for notice in comparison.notices)
    assert comparison.better(comparison.rows[0]) == 1
