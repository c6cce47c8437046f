"""Lengths of time in words, and how often there are words."""

from datetime import datetime

import pytest

from pipelines.utils.progress_times import SECONDS, duration, finish, intervals


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3590, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_lengths_of_time(seconds, text):
    assert duration(seconds) == text
    assert finish(seconds, datetime(2026, 1, 1)).endswith(f"(in {text})")


def test_the_environment_sets_the_intervals(monkeypatch):
    monkeypatch.delenv(SECONDS, raising=False)
    assert intervals() == (20, 30)
    monkeypatch.setenv(SECONDS, "2.5")
    assert intervals() == (2.5, 2.5)
    for wrong in ("often", "-1", "nan"):
        monkeypatch.setenv(SECONDS, wrong)
        with pytest.raises(ValueError, match=f"{SECONDS} is '{wrong}'; give the seconds"):
            intervals()
