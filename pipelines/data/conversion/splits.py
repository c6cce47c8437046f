"""nnU-Net's splits_final.json: folds of a cross-validation, or one split, as our lists and folds and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_json import Item
from pipelines.utils.json_files import JsonError, read_json
from transforms.utils.sentences import few_of

SPLITS_FINAL = "splits_final.json"


def with_splits(items: Sequence[Item], path: Path, problems: list[str]) -> list[Item]:
    """Items with the folds of a splits_final.json; of a file with a single split its lists.

    Args:
        items: of the dataset; those of the test list stay as they are.
        path: a list of objects with "train" and "val", which are lists of case ids.
        problems: gets what is wrong with single cases: folds must hold every case for validation once, and train on all
            others.

    Raises:
        DatasetError: the file is none such.
    """
    splits = _read(path)
    labelled = {item.case.id for item in items if item.split != "test"}
    held_out: dict[str, int] = {}
    for number, (train, val) in enumerate(splits):
        strange = sorted((train | val) - labelled)
        if strange:
            problems.append(
                f"{path}: fold {number} names {few_of(strange, 5)}, which the training list does not have."
            )
        if train != labelled - val:
            wrong = sorted((train & val) | (labelled - train - val))
            if wrong:
                problems.append(
                    f"{path}: fold {number} has {few_of(wrong, 5)} in both of its lists or in none; one is right."
                )
        for case in sorted(val & labelled):
            if held_out.setdefault(case, number) != number:
                problems.append(
                    f"case {case!r}: {path} holds it out in the folds {held_out[case]} and {number}; one is right."
                )
    found = []
    for item in items:
        if item.split == "test":
            found.append(item)
        elif len(splits) == 1:
            found.append(
                replace(item, fold=None, split="validation" if item.case.id in held_out else "training")
            )
        else:
            if item.case.id not in held_out:
                problems.append(f"case {item.case.id!r}: {path} holds it out in no fold; one is right.")
            found.append(replace(item, fold=held_out.get(item.case.id), split="training"))
    return found


def splits_of(items: Sequence[Item]) -> list[dict[str, list[str]]]:
    """The content of a splits_final.json: the folds that items state, else their validation list; empty without either."""
    labelled = [item for item in items if item.split != "test"]
    folds = sorted({item.fold for item in labelled if item.fold is not None})
    if folds:
        return [
            {
                "train": [item.case.id for item in labelled if item.fold != fold],
                "val": [item.case.id for item in labelled if item.fold == fold],
            }
            for fold in folds
        ]
    if not any(item.split == "validation" for item in labelled):
        return []
    return [
        {
            "train": [item.case.id for item in labelled if item.split == "training"],
            "val": [item.case.id for item in labelled if item.split == "validation"],
        }
    ]


def _read(path: Path) -> list[tuple[set[str], set[str]]]:
    try:
        content = read_json(path)
    except (JsonError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(path, [f"cannot be read ({said})."]) from error

    def ids(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(case, str) for case in value)

    if (
        not isinstance(content, list)
        or not content
        or not all(
            isinstance(split, dict) and ids(split.get("train")) and ids(split.get("val")) for split in content
        )
    ):
        raise DatasetError(
            path,
            [
                'no splits_final.json of nnU-Net; it must be a list of {"train": [case, ...], "val": [case, ...]}.'
            ],
        )
    return [(set(split["train"]), set(split["val"])) for split in content]
