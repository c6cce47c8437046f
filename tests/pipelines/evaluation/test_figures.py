"""Figures."""

import subprocess
import sys

from pipelines.evaluation.figures import axes_of


def test_one_axes_or_several_side_by_side():
    figure, axes = axes_of(4.0, 2.0)
    assert tuple(figure.get_size_inches()) == (4, 2)
    assert figure.axes == [axes]
    figure, several = axes_of(8.0, 2.0, columns=2)
    assert figure.axes == list(several)


def test_no_window_system_is_looked_for():
    code = "import sys; from pipelines.evaluation.figures import axes_of; axes_of(1, 1); print('matplotlib.pyplot' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert found.stdout.split() == ["False"]
