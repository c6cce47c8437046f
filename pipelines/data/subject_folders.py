"""A folder a subject, with its image and a folder of masks: the layout of TotalSegmentator's data sets.

``s0011/ct.nii.gz`` (or ``mri.nii.gz``), ``s0011/segmentations/liver.nii.gz`` and so on, and ``meta.csv`` beside the
subjects, which says who is for training, validation and test. See docs/data.md.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.cases import Case, DatasetError
from pipelines.data.dataset_json import Item, Source, parse_labels
from pipelines.data.label_names import LabelNames
from transforms.errors import ImageError
from transforms.io.masks import mask_files
from transforms.utils.sentences import few_of

logger = logging.getLogger(__name__)

_MASKS, _META = "segmentations", "meta.csv"
_MODALITIES = {"ct": "CT", "mri": "MRI"}
_SPLITS = {"train": "training", "val": "validation", "test": "test", "": "training"}


def holds_subjects(root: Path) -> bool:
    """Whether a subfolder has an image and a folder of masks, by their names."""
    try:
        return any(_images(folder) and (folder / _MASKS).is_dir() for folder in _folders(root))
    except OSError:  # said by whoever reads the folder
        return False


def from_subjects(root: Path, content: Mapping[str, Any], problems: list[str]) -> Source:
    """The cases of a folder of subjects.

    Args:
        root: with a folder a subject.
        content: of a dataset.json beside them, which may name "labels" (a list of names, or an object as everywhere;
            without it every mask that any subject has is a class, in the order of their names), "channel_names" and
            "name".
        problems: gets what is wrong with single cases.

    Raises:
        DatasetError: there is no subject, or the classes or meta.csv cannot be used.
    """
    splits = _splits(root)
    items: list[Item] = []
    kinds: set[str] = set()
    masks: set[str] = set()
    for folder in _folders(root):
        images, label = _images(folder), folder / _MASKS
        if not images and not label.is_dir():
            continue
        case = folder.name
        if len(images) != 1:
            said = " and ".join(image.name for image in images) or "neither ct.nii.gz nor mri.nii.gz"
            problems.append(f"case {case!r}: {folder} has {said}; one image belongs there.")
            continue
        split = "training" if splits is None else splits.get(case)
        if split is None:
            problems.append(
                f"case {case!r}: {root / _META} has no row for it; add one, or take the folder away."
            )
            continue
        try:
            found = mask_files(label) if label.is_dir() else {}
        except (ImageError, OSError) as error:
            problems.append(f"case {case!r}: {error}")
            continue
        if not found and split != "test":
            problems.append(f"case {case!r}: {label} has no masks; add <class>.nii.gz for each class.")
            continue
        masks |= set(found)
        kinds.add(images[0].name.lower().split(".")[0])
        items.append(Item(Case(case, (images[0],), label if found else None, case), split))
    if splits is not None and (absent := len(splits) - len({item.case.id for item in items} & set(splits))):
        logger.info(
            "%s: %d of its %d subjects are not there and are left out", root / _META, absent, len(splits)
        )
    labels = _labels(root, content, masks, problems)
    if not any(item.split == "training" for item in items) and not problems:
        raise DatasetError(root, [f'no subject is for training by the column "split" of {_META}.'])
    content = {"channel_names": {"0": _modality(root, kinds, content)}, **content}
    content["labels"] = {str(value): name for value, name in labels.items()}
    name = content.get("name")
    return Source(
        name=name if isinstance(name, str) else "",
        names=LabelNames(labels, {}, None, labels),
        channels=1,
        items=items,
        description=json.dumps(content, sort_keys=True),
    )


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return [
            root / name
            for name in sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
        ]


def _images(folder: Path) -> list[Path]:
    names = [f"{kind}{suffix}" for kind in _MODALITIES for suffix in (".nii.gz", ".nii")]
    return [folder / name for name in names if os.path.lexists(folder / name)]


def _modality(root: Path, kinds: set[str], content: Mapping[str, Any]) -> str:
    if len(kinds) > 1 and not {"channel_names", "modality"} & set(content):
        raise DatasetError(
            root,
            [
                "some subjects have a CT and others an MRI, whose values have nothing in common; keep one kind, or say in a"
                ' dataset.json how all are to be treated: "channel_names": {"0": "MRI"}.'
            ],
        )
    return _MODALITIES[min(kinds)] if kinds else "CT"


def _labels(
    root: Path,
    content: Mapping[str, Any],
    masks: set[str],
    problems: list[str],
) -> dict[int, str]:
    stated = content.get("labels", sorted(masks))
    if isinstance(stated, list):
        names = stated[1:] if stated[:1] == ["background"] else stated
        stated = {"0": "background", **{str(value): name for value, name in enumerate(names, start=1)}}
    wrong: list[str] = []
    parsed = parse_labels({"labels": stated}, wrong)
    if parsed is None:
        raise DatasetError(root, [*problems, *wrong])
    if parsed.regions or parsed.ignore is not None:
        raise DatasetError(
            root,
            [
                'folders of masks have neither regions nor an ignore label; name one mask for each class in "labels".'
            ],
        )
    labels = parsed.labels
    unknown = [name for value, name in labels.items() if value and name not in masks]
    if unknown and masks:
        shown = few_of(sorted(masks), 20)
        problems += [
            f"no subject has a mask {name}.nii.gz for the class {name!r}; there are {shown}."
            for name in unknown
        ]
    return labels


def _splits(root: Path) -> dict[str, str] | None:
    """Subject to list by meta.csv; None where there is none, or it names no splits."""
    path = root / _META
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.split("\n", 1)[0]
        rows = list(csv.DictReader(text.splitlines(), delimiter=";" if ";" in header else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            path, [f"cannot be read as a table ({error}); correct it, or take it away."]
        ) from error
    columns = rows[0].keys() if rows else ()
    if "image_id" not in columns:
        raise DatasetError(
            path,
            ['has no column "image_id"; name the folder of each subject there, or take the file away.'],
        )
    if "split" not in columns:
        return None
    found: dict[str, str] = {}
    wrong = []
    for row in rows:
        subject, split = (row["image_id"] or "").strip(), (row["split"] or "").strip().lower()
        if split not in _SPLITS:
            wrong.append(f'subject {subject!r} has the split {split!r}; it must be "train", "val" or "test".')
        elif found.setdefault(subject, _SPLITS[split]) != _SPLITS[split]:
            wrong.append(f"subject {subject!r} stands in two splits; keep one row.")
    if wrong:
        raise DatasetError(path, wrong)
    return found
