"""Axes and boxes of the plots on our pages."""

from xml.etree import ElementTree

import numpy as np
import pytest

from pipelines.utils.svg import LABELS, RIGHT, WIDTH, Plot, ticks


def test_ticks_are_round_and_within() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-0.011, 0.023) == pytest.approx([-0.01, -0.005, 0, 0.005, 0.01, 0.015, 0.02])
    random = np.random.default_rng(0)
    for _ in range(200):
        low = random.normal() * 10 ** random.uniform(-6, 4)
        high = low + 10 ** random.uniform(-6, 4)
        found = ticks(low, high)
        assert 1 <= len(found) <= 9
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_names_and_tips_are_only_text() -> None:
    evil = "<script>'x'</script> & \"co\""
    plot = Plot(evil, 0.0, 1.0, 1)
    plot.axis(evil)
    plot.label(evil, 12.0)
    plot.points(np.array([0.5, np.nan]), 12.0, lambda index: ("case", evil))
    root = ElementTree.fromstring(str(plot))
    assert root.attrib["aria-label"] == evil
    assert [title.text for title in root.iter("title")] == [evil, evil]
    assert not list(root.iter("script"))
    assert len(list(root.iter("circle"))) == 1


def test_the_axis_ends_where_the_values_do() -> None:
    plot = Plot("name", -2.0, 6.0, 3)
    assert (plot.x(-2.0), plot.x(6.0)) == (LABELS, WIDTH - RIGHT)
    assert plot.x(2.0) == (LABELS + WIDTH - RIGHT) / 2


@pytest.mark.parametrize("values", [[0.0, 10.0, 10.0, 10.0], [3.0], [1.0, 2.0, 3.0, 4.0, 100.0]])
def test_whiskers_leave_the_box_outwards(values: list[float]) -> None:
    """Of 0, 10, 10, 10 every value within the whiskers' reach lies above the first quartile of 7.5."""
    plot = Plot("name", 0.0, 100.0, 1)
    group, beyond = plot.box(np.array(values), 12.0, "run0")
    left, right, median = group.findall("line")
    rectangle = group.find("rect")
    start = float(rectangle.get("x"))
    assert float(left.get("x1")) <= float(left.get("x2")) == start
    assert float(right.get("x2")) >= float(right.get("x1")) >= start
    assert float(median.get("x1")) == pytest.approx(plot.x(float(np.median(values))), abs=0.06)
    kept = [value for value in values if value not in beyond.tolist()]
    assert float(right.get("x2")) == pytest.approx(plot.x(max(kept)), abs=0.06)


def test_a_row_per_column_with_a_point_per_value():
    plot = Plot("sizes", 0, 10, rows=2)
    plot.boxes(
        {"liver": np.array([1.0, 2.0, np.nan]), "absent": np.full(3, np.nan)},
        lambda index, value: f"case {index}: {value:g}",
    )
    drawn = str(plot)
    assert drawn.count("<circle") == 2
    assert "case 1: 2" in drawn
    assert "case 2" not in drawn
    assert "liver" in drawn
    assert "absent" in drawn
