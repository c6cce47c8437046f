"""Differences between runs other than results: configuration, code, data and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.comparison.run_results import RunResults
from pipelines.config.knobs import Knob, knobs_of

_INCIDENTAL = knobs_of(Knob.INCIDENTAL)
_ORIGIN = ("mlflow.source.git.", "git.", "version.", "data.", "host", "device")


@dataclass(frozen=True)
class Difference:
    """A parameter or tag that is not the same in all runs; the value is None for a run that does not have it."""

    name: str
    values: list[str | None]


def config_differences(runs: Sequence[RunResults]) -> list[Difference]:
    """Parameters that differ: top-level ids first, then nested ones, then those that usually differ between runs."""
    found = _differences([run.params for run in runs])
    return sorted(
        found,
        key=lambda d: (d.name.split(".")[0] in _INCIDENTAL, "." in d.name, d.name.split(".")[0], d.name),
    )


def origin_differences(runs: Sequence[RunResults]) -> list[Difference]:
    """Tags of the code, data, versions and machine that differ."""
    tags = [{key: value for key, value in run.tags.items() if key.startswith(_ORIGIN)} for run in runs]
    found = _differences(tags)
    return sorted(
        found, key=lambda d: (next(i for i, p in enumerate(_ORIGIN) if d.name.startswith(p)), d.name)
    )


def _differences(tables: Sequence[dict[str, str]]) -> list[Difference]:
    names = dict.fromkeys(name for table in tables for name in table)
    found = [Difference(name, [table.get(name) for table in tables]) for name in names]
    return [difference for difference in found if len(set(difference.values)) > 1]
