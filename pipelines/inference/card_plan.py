"""The plan of a training in `model.json`: bounded values, checked because the file is not trusted."""

from __future__ import annotations

from typing import Any, TypedDict

from pipelines.inference.card_preprocessing import CHANNELS
from pipelines.inference.card_values import CardError, entries, mapping, number, shown, text

__all__ = ["LONGEST_REASON", "CardPlan", "PlannedSetting", "checked_card_plan"]

LONGEST_REASON = 4096
"""Letters of a reason in a model's description."""

_SETTINGS, _ITEMS = 64, CHANNELS
_MOST = 1e9
_LETTERS = 256


class PlannedSetting(TypedDict):
    """One setting of a config that was planned: its value, and why it was chosen."""

    value: Any
    reason: str


class CardPlan(TypedDict):
    """The settings that a training had from its plan.

    Attributes:
        minutes: wall time that the training was expected to take; None if it was not planned for a time.
        settings: by the name of the setting in the config; settings that the user gave are not among them.
    """

    minutes: float | None
    settings: dict[str, PlannedSetting]


def checked_card_plan(content: Any) -> CardPlan:
    """Check the plan in a model's description; unknown keys are dropped.

    Raises:
        CardError: a value is missing, of the wrong type, or out of bounds.
    """
    found = mapping(content, "plan")
    settings = entries(found.get("settings"), "plan#settings", _SETTINGS)
    minutes = found.get("minutes")
    return {
        "minutes": None if minutes is None else number(minutes, "plan#minutes", 0, _MOST),
        "settings": {
            text(name, "plan#settings", _LETTERS): _setting(setting, f"plan#settings#{name}")
            for name, setting in settings.items()
        },
    }


def _setting(content: Any, where: str) -> PlannedSetting:
    found = mapping(content, where)
    value = found.get("value")
    if isinstance(value, list) and len(value) > _ITEMS:
        raise CardError(f"{where} has {len(value)} items; at most {_ITEMS} are allowed")
    return {
        "value": [_scalar(item, where) for item in value]
        if isinstance(value, list)
        else _scalar(value, where),
        "reason": text(found.get("reason"), f"{where}#reason", LONGEST_REASON),
    }


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, where, _LETTERS)
    if isinstance(value, (int, float)):
        return number(value, where, -_MOST, _MOST)
    raise CardError(f"{where} is {shown(value)}, which is not a plain value")
