"""Matching the files of predictions, references and images, and finding the names of their classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.data.cases import CaseItem, numbered_id
from pipelines.data.inputs import InputError, find_inputs
from pipelines.data.label_names import LabelNames, LabelsError, label_names
from pipelines.data.missing_files import may_be_an_image
from pipelines.utils.file_names import readable
from pipelines.utils.json_files import JsonError, read_json
from transforms.dicom.labels import dicom_label_names
from transforms.io.header import PICTURE_SUFFIXES, SUFFIXES, image_suffix, names_image
from transforms.io.readers import is_dicom_label, read_label
from transforms.utils.sentences import few_of

LABEL_FILES = ("labels.json", "dataset.json")
# What `python -m pipelines predict` writes beside a label map.
_COMPANIONS = ("_preview", "_probabilities")
_DICOM_ENDINGS = (".seg.dcm", ".rtstruct.dcm", ".dcm", ".dicom")


class Pair(NamedTuple):
    """The prediction and the reference of a case, and its image if one is given."""

    case: str
    prediction: Path
    reference: Path
    image: CaseItem | None = None


class Pairs(NamedTuple):
    """The cases with a prediction and a reference, and the names of those with only one of them."""

    found: list[Pair]
    without_prediction: list[str]
    without_reference: list[str]


def find_pairs(
    predictions: str | os.PathLike, references: str | os.PathLike, images: str | os.PathLike | None = None
) -> Pairs:
    """Match two files, or the files of two folders by name.

    Files are matched by name, without suffix and without nnU-Net's `_0000`. A subfolder is a case that holds one
    segmentation. If a case has both a DICOM file and one of another format, the DICOM file is ignored.

    Args:
        images: file or folder of the images, matched in the same way.

    Raises:
        InputError: a path does not exist, one side is a file and the other a folder, or nothing matches.
    """
    sides = [Path(predictions), Path(references)]
    for path in sides:
        if not path.exists():
            raise InputError(f"{path} does not exist; give a segmentation or a folder of them")
    if sides[0].is_file() and sides[1].is_file():
        name = _name(sides[1])
        return Pairs([Pair(name, sides[0], sides[1], _images(images, [name]).get(name))], [], [])
    if sides[0].is_file() or sides[1].is_file():
        file, folder = sides if sides[0].is_file() else sides[::-1]
        raise InputError(f"{file} is a file and {folder} a folder; give two files or two folders")
    predicted, wanted = (segmentations(path) for path in sides)
    both = [name for name in wanted if name in predicted]
    if not both:
        raise InputError(
            f"no file of {sides[0]} ({few_of(predicted, 3)}) has the same name as one of {sides[1]}"
            f" ({few_of(wanted, 3)}); give the prediction and the reference of a case the same name"
        )
    pictures = _images(images, both)
    return Pairs(
        [Pair(name, predicted[name], wanted[name], pictures.get(name)) for name in both],
        [name for name in wanted if name not in predicted],
        [name for name in predicted if name not in wanted],
    )


def numbered(pairs: Pairs) -> Pairs:
    """The same with numbers instead of names, in the order of the names."""
    names = sorted(
        {pair.case for pair in pairs.found} | {*pairs.without_prediction, *pairs.without_reference}
    )
    numbers = {name: numbered_id(number) for number, name in enumerate(names, start=1)}
    return Pairs(
        [pair._replace(case=numbers[pair.case]) for pair in pairs.found],
        [numbers[name] for name in pairs.without_prediction],
        [numbers[name] for name in pairs.without_reference],
    )


def segmentations(folder: Path) -> dict[str, Path]:
    """The segmentations in a folder, name to path, sorted by name; for a dataset's folder those in its labelsTr.

    Raises:
        InputError: there are none, or two have the same name.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    found: dict[str, Path] = {}
    for entry in entries:
        if entry.is_dir():
            inside = _only_segmentation(entry)
        else:
            named = names_image(entry) or entry.name.lower().endswith(_DICOM_ENDINGS)
            inside = entry if named or may_be_an_image(entry) else None
        if inside is None:
            continue
        name = _name(entry)
        other = found.get(name)
        if other is not None and _is_dicom(other) == _is_dicom(inside):
            raise InputError(f"{other} and {inside} have the same name '{name}'; remove one of them")
        if other is None or _is_dicom(other):
            found[name] = inside
    companions = [
        name for name in found if any(name.endswith(c) and name.removesuffix(c) in found for c in _COMPANIONS)
    ]
    for name in companions:
        del found[name]
    if not found or (set(found) <= {"imagesTr", "labelsTr", "imagesTs", "labelsTs"}):
        if (folder / "labelsTr").is_dir():
            return segmentations(folder / "labelsTr")
        raise InputError(
            f"{folder} holds no segmentation; give a folder with files"
            f" {', '.join(s for s in SUFFIXES if s not in PICTURE_SUFFIXES)}, DICOM SEG or RTSTRUCT"
        )
    # nnU-Net adds the number of the channel to the names of images, and some tools copy it to label maps.
    return {
        name[:-5] if name.endswith("_0000") and name[:-5] not in found else name: p
        for name, p in found.items()
    }


def read_labels(path: Path) -> LabelNames:
    """Class ids and names in a dataset.json of MSD or nnU-Net, or in a labels.json.

    Raises:
        InputError: the file cannot be read, or its class ids and names are missing or ambiguous.
    """
    try:
        content = read_json(path)
    except (OSError, JsonError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); give a dataset.json or labels.json"
        ) from error
    if not isinstance(content, dict) or not content.get("labels", content):
        raise InputError(f'{path} does not name classes; write {{"labels": {{"1": "liver"}}}}')
    try:
        found = label_names(content if "labels" in content else {"labels": content})
    except LabelsError as error:
        raise InputError(f"{path}: {error}") from None
    if not any(value != 0 for value in found.labels) or min(found.labels) < 0:
        raise InputError(
            f"{path}: every class needs a value from 1 up and a name of its own besides the background"
        )
    return found


def labels_of(
    pairs: Sequence[Pair],
    labels: str | os.PathLike | None,
    folders: Iterable[str | os.PathLike] = (),
) -> LabelNames:
    """Class ids and names for a set of cases.

    Without `labels`, they are taken from the first of these that exists: a labels.json or dataset.json in `folders` or
    beside the folder of the references; the segments of DICOM references; the values in the label maps.

    Args:
        labels: file with the class ids and names.
        folders: folders of the predictions and of the references.

    Raises:
        InputError: the file does not name classes, or the classes cannot be determined.
    """
    if labels is not None:
        return read_labels(Path(labels))
    for folder in (*map(Path, folders), *(Path(f).parent for f in list(folders)[1:])):
        for name in LABEL_FILES:
            if (folder / name).is_file():
                return read_labels(folder / name)
    dicom = [_is_dicom(path) for pair in pairs for path in (pair.prediction, pair.reference)]
    if any(dicom):
        if not all(dicom):
            raise InputError(
                "DICOM segments have names and other label maps have numbers; give a file with --labels that states"
                " which belong together"
            )
        names = dict.fromkeys(name for pair in pairs for name in _names(pair.reference))
        if not names:
            raise InputError("no DICOM reference can be read; name the classes with --labels")
        return _classes_alone(dict(enumerate(names, start=1)))
    values: set[int] = set()
    for pair in pairs:
        for path in (pair.prediction, pair.reference):
            try:
                values |= {int(value) for value in np.unique(read_label(path).numpy())}
            except Exception:  # an unreadable file is reported when its case is evaluated
                continue
    if not {value for value in values if value > 0}:
        raise InputError("all label maps are empty, so the classes are unknown; name them with --labels")
    return _classes_alone({value: f"class_{value}" for value in sorted(values) if value > 0})


def _classes_alone(labels: dict[int, str]) -> LabelNames:
    return LabelNames(labels, {}, None, labels)


def _names(path: Path) -> list[str]:
    try:
        return list(dicom_label_names(path).values())
    except Exception:  # as above
        return []


def _name(path: Path) -> str:
    suffix = image_suffix(path)
    if not path.is_dir() and not suffix:
        suffix = next((s for s in _DICOM_ENDINGS if path.name.lower().endswith(s)), "")
    return readable(path.name[: len(path.name) - len(suffix)])


def _is_dicom(path: Path) -> bool:
    return is_dicom_label(path)


def _only_segmentation(folder: Path) -> Path | None:
    """The only image file in the folder of a case, or the folder itself if it holds DICOM files."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file() or may_be_an_image(entry)]
    images = [entry for entry in files if names_image(entry)]
    if len(images) == 1:
        return images[0]
    return folder if files and not images else None


def _images(images: str | os.PathLike | None, names: Sequence[str]) -> dict[str, CaseItem]:
    if images is None:
        return {}
    found = find_inputs(images)
    if len(found) == 1 and len(names) == 1:
        return {names[0]: found[0]}
    by_name: dict[str, CaseItem] = {}
    for item in found:
        name = str(item["case"])
        by_name.setdefault(name[:-5] if name.endswith("_0000") else name, item)
        by_name[name] = item
    return by_name
