"""The models of a cross-validation as one: a folder with `ensemble.json`, which `predict --model` takes like a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pipelines.utils.json_files import JsonError, read_json
from transforms.errors import UserError
from transforms.utils.files import replacing

ENSEMBLE = "ensemble.json"
_KNOWN = ("largest_foreground", "largest_component", "fill_holes", "min_volume_ml")
_LARGEST, _MEMBERS = 1 << 20, 100


class EnsembleError(UserError, ValueError):
    """A folder is no ensemble, or its description cannot be used; the message names it."""


class EnsembleCard(TypedDict):
    """What `ensemble.json` holds.

    Attributes:
        members: of each model, its file, relative to the folder.
        sha256: of each model's weights, in the same order.
        postprocessing: arguments of `pipelines.Postprocess` that helped on the cases of all folds.
        dice: mean Dice per class over the cases of all folds, before ("before") and after ("after") it.
    """

    members: list[str]
    sha256: list[str]
    postprocessing: dict[str, Any]
    dice: dict[str, dict[str, float]]


def write_ensemble(folder: Path, card: EnsembleCard) -> Path:
    """Write the description, whole or not at all."""
    path = folder / ENSEMBLE
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path


def ensemble_file(path: str | os.PathLike) -> Path | None:
    """The description of an ensemble that a path stands for: the file, or a folder that holds it; else None."""
    given = Path(path)
    file = given / ENSEMBLE if given.is_dir() else given
    return file if file.name == ENSEMBLE and file.is_file() else None


def read_ensemble(file: Path) -> tuple[list[Path], dict[str, Any]]:
    """The models of an ensemble and their post-processing. Nothing in the file can run, and it names no file elsewhere.

    Raises:
        EnsembleError: it is no description of an ensemble.
    """
    try:
        content = read_json(file, largest=_LARGEST)
    except (JsonError, OSError) as error:
        raise EnsembleError(f"{file} is no description of an ensemble: {error}") from error
    members = content.get("members") if isinstance(content, Mapping) else None
    if not isinstance(members, list) or not 0 < len(members) <= _MEMBERS or not all(map(_inside, members)):
        raise EnsembleError(
            f'{file} is no description of an ensemble: "members" has to name model files below its folder'
        )
    chosen = content.get("postprocessing") or {}
    if not isinstance(chosen, Mapping) or set(chosen) - set(_KNOWN):
        raise EnsembleError(f'{file}: "postprocessing" may name {", ".join(_KNOWN)}')
    return [file.parent / member for member in members], dict(chosen)


def _inside(member: Any) -> bool:
    parts = Path(member).parts if isinstance(member, str) else ()
    return bool(parts) and not Path(member).is_absolute() and ".." not in parts


def require_members(paths: Sequence[Path], file: Path) -> None:
    """Raise EnsembleError unless all models are there."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise EnsembleError(
            f"{file} names {missing[0]}, which is not there; restore it, or make the ensemble anew"
        )
