"""The intervals between progress lines, and the formatting of times in them."""

from __future__ import annotations

import math
import os
from datetime import datetime, timedelta
from typing import NamedTuple

from transforms.errors import SettingError

SECONDS = "SEGBUNDLES_PROGRESS_SECONDS"


class Intervals(NamedTuple):
    """Seconds until the first progress line, and between lines."""

    first: float
    then: float


def intervals() -> Intervals:
    """20 and 30 seconds, or the value of `SEGBUNDLES_PROGRESS_SECONDS` for both.

    Raises:
        SettingError: the value is not a number of seconds.
    """
    text = os.environ.get(SECONDS, "").strip()
    if not text:
        return Intervals(20.0, 30.0)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise SettingError(
            f"{SECONDS} is '{text}'; give the seconds between lines of progress, 0 for a line at every step or inf for"
            " none"
        )
    return Intervals(seconds, seconds)


def duration(seconds: float) -> str:
    """A duration as text: 45 s, 15 min, 2 h 05 min, 3 d 4 h."""
    if round(seconds) < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def finish(seconds: float, now: datetime) -> str:
    """ "done at 14:32 (in 15 min)", with the date if it is another day."""
    at = now + timedelta(seconds=seconds)
    day = "" if at.date() == now.date() else f"{at:%Y-%m-%d} "
    return f"done at {day}{at:%H:%M} (in {duration(seconds)})"


def in_seconds(value: float) -> str:
    if value >= 100:
        return f"{value:.0f} s"
    if value >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if value >= 1 else f"{value:.2g} s"


class Beyond(NamedTuple):
    """Work after the steps: its expected seconds, and a description of the part whose duration is unknown."""

    seconds: float = 0.0
    unknown: str = ""
