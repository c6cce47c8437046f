"""A comparison as text for a terminal, and as CSV."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipelines.comparison.comparison import ALL, compare
from pipelines.comparison.text_report import (
    as_text,
    classes_file,
    number,
    p_value,
    write_cases_csv,
    write_classes_csv,
)
from tests.pipelines.comparison.some_results import results

NAN = float("nan")


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
    assert "65 classes with smaller differences not shown" in text
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
