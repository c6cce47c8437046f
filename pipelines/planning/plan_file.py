"""A plan as a file: an overlay for `--config_file "['bundles/r2unet/train.json','plan.json']"`, with its reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config.executed import ExecutedConfig
from pipelines.planning.records import Plan, PlannedValue, StepCost
from pipelines.utils.json_files import JsonError, read_json
from transforms.errors import UserError
from transforms.utils.files import replacing

PLAN_FILE = "plan.json"
COMMENT = "_desc_planned"
"""The id of a config that holds the reasons: MONAI takes ids that begin so for comments."""


class PlanError(UserError, ValueError):
    """A plan cannot be made or read; the message says why and what to do."""


def as_overlay(plan: Plan, asked: str = "") -> dict[str, Any]:
    """The plan as a config: its knobs, and under `COMMENT` what it was made from.

    Args:
        plan: to be written.
        asked: digest of what it was planned for, so that a later start can tell whether it still applies.
    """
    comment = {
        "reasons": {name: value.reason for name, value in plan.values.items()},
        "values": {name: value.value for name, value in plan.values.items()},
        "given": dict(plan.given),
        "notices": list(plan.notices),
        "minutes": plan.minutes,
        "cost": None if plan.cost is None else plan.cost._asdict(),
        "asked": asked,
    }
    return {COMMENT: comment, **{name: value.value for name, value in plan.values.items()}}


def from_overlay(overlay: Mapping[str, Any]) -> Plan:
    """The plan that `as_overlay` wrote; knobs whose values were changed since then have no reason.

    Raises:
        PlanError: there is none in it.
    """
    comment = overlay.get(COMMENT)
    reasons = comment.get("reasons") if isinstance(comment, Mapping) else None
    if not isinstance(comment, Mapping) or not isinstance(reasons, Mapping):
        raise PlanError(f"it has no reasons under {COMMENT}, as a plan has")
    cost = comment.get("cost")
    return Plan(
        values={
            name: PlannedValue(overlay[name], str(reason))
            for name, reason in reasons.items()
            if name in overlay
        },
        given=dict(comment.get("given") or {}),
        minutes=comment.get("minutes"),
        cost=StepCost(**cost) if isinstance(cost, Mapping) else None,
        notices=tuple(comment.get("notices") or ()),
    )


def asked_of(overlay: Mapping[str, Any]) -> str:
    """The digest that `as_overlay` was given; empty where there is none."""
    comment = overlay.get(COMMENT)
    return str(comment.get("asked", "")) if isinstance(comment, Mapping) else ""


def executed_plan(config: ExecutedConfig) -> dict[str, Any] | None:
    """The plan that a running config has its knobs from, as a config of its own; None where it has none.

    A knob that was given another value beside the plan is not in it.
    """
    merged = config.parser.get()
    comment = merged.get(COMMENT)
    if not isinstance(comment, Mapping):
        return None
    if not all(isinstance(comment.get(part), Mapping) for part in ("values", "reasons")):
        return None
    planned = comment["values"]
    kept = {name: value for name, value in planned.items() if merged.get(name) == value}
    return {COMMENT: dict(comment), **kept}


def write_plan(path: Path, overlay: Mapping[str, Any]) -> None:
    """Write an overlay, whole or not at all, one knob a line."""
    comment = json.dumps(overlay[COMMENT], indent=8).removesuffix("}") + "    }"
    knobs = [
        f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in overlay.items() if name != COMMENT
    ]
    text = ",\n".join([f"    {json.dumps(COMMENT)}: {comment}", *knobs])
    with replacing(path) as temporary:
        temporary.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def read_plan(path: Path) -> dict[str, Any]:
    """Read an overlay that `write_plan` wrote.

    Raises:
        PlanError: the file is no plan; the message names it.
    """
    try:
        content = read_json(path)
    except JsonError as error:
        raise PlanError(f"{path} is no plan: {error}; remove it, and the next start makes another") from error
    if not isinstance(content, dict):
        raise PlanError(
            f"{path} is no plan: it holds no JSON object; remove it, and the next start makes another"
        )
    try:
        from_overlay(content)
    except PlanError as error:
        raise PlanError(f"{path} is no plan: {error}; remove it, and the next start makes another") from error
    return content
