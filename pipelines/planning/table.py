"""A plan in words: a line for each value with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.planning.records import Plan


def lines(plan: Plan) -> Iterator[str]:
    """The plan as a person reads it in a terminal."""
    width = max((len(name) for name in plan.values), default=0)
    for name, (value, reason) in plan.values.items():
        yield f"{name:<{width}}  {as_text(value)}: {reason}"
    for name, value in plan.given.items():
        yield f"{name:<{width}}  {as_text(value)}: given"
    for notice in plan.notices:
        yield f"notice: {notice}"


def as_text(value: Any) -> str:
    """A value as a person types it: `1 x 1 x 3`-like lists stay lists, whole floats lose their fraction."""
    return json.dumps(_short(value))


def _short(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value]
    if isinstance(value, float):
        rounded = float(f"{value:.4g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value
