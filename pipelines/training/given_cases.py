"""Cases that a program puts into the config of a training in place of the dataset folder, as MONAI Label does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config.executed import executed_config, reparse
from pipelines.inference.model_card import ModelCard, read_card
from pipelines.inference.trained_model import CARD

__all__ = ["adopt_cases"]

TRAINING, VALIDATION = "$@data.as_dicts('training')", "$pipelines.shard(@data.as_dicts('validation'))"
"""What train.json has where such a program puts its lists."""


def adopt_cases(folder: str | os.PathLike[str]) -> None:
    """Make the cases that stand in `train#dataset#data` and `validate#dataset#data` the dataset of the training.

    Everything else that follows from the data, from the plan to what MLflow keeps, then follows from these cases. To be
    called in "initialize", before the plan. A config without such lists stays as it is.

    The classes are those of the model in `folder`, which such programs train on; without one they are named after the
    values of the label maps.

    Args:
        folder: of the training's model.

    Raises:
        DatasetError: the cases cannot be used.
        CardError: the model in `folder` has no valid description.
    """
    config = executed_config()
    raw = config.parser.get()
    training, validation = (_list_of(raw, part) for part in ("train", "validate"))
    if training is None:
        return
    beside = Path(folder) / CARD
    raw["data"] = {
        "_target_": "pipelines.given_dataset",
        "training": training,
        "validation": validation,
        "labels": _stated_labels(read_card(beside)) if beside.is_file() else None,
        "anonymous": bool(raw.get("anonymous")),
    }
    raw["dataset_dir"] = None
    raw["train"]["dataset"]["data"] = TRAINING
    raw["validate"]["dataset"]["data"] = VALIDATION
    reparse(config.parser)


def _list_of(raw: Mapping[str, Any], part: str) -> list[Any] | None:
    given = raw.get(part, {}).get("dataset", {}).get("data")
    return given if isinstance(given, list) else None


def _stated_labels(card: ModelCard) -> dict[str, int | list[int]]:
    """The classes, or regions, of a model as `pipelines.given_dataset` takes them."""
    labels = {name: int(value) for value, name in card["labels"].items()}
    regions = card.get("regions")
    if not regions:
        return dict(labels)
    background = next(name for name, value in labels.items() if value == 0)
    return {background: 0, **{name: list(values) for name, values in regions.items()}}
