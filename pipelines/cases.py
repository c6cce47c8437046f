"""A dataset folder to cases with ids, labels and splits.

Understood are an MSD ``dataset.json`` in the spellings of the Medical Segmentation Decathlon, MONAI and nnU-Net, and
folders ``imagesTr``/``labelsTr`` without one; docs/data.md shows each. All that is wrong with a dataset is said at
once, in one :class:`DatasetError` that names the cases and files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transforms.dicom_labels import check_dicom_label
from transforms.readers import (
    PICTURE_SUFFIXES,
    SUFFIXES,
    Header,
    ImageError,
    image_suffix,
    is_dicom_label,
    read_header,
    read_label,
)

__all__ = ["SPLITS", "Case", "Dataset", "DatasetError", "check_headers", "check_label_values", "load_dataset"]

SPLITS = ("training", "validation", "test")
GRID_TOLERANCE = 0.05
"""Largest distance, in voxels, between corners of an image's and its label's grid that still counts as equal."""

_SHOWN = 20
_GROUP_KEYS = ("patient", "group", "subject")
_ID_KEYS = ("case", "id")
_T = TypeVar("_T")
_R = TypeVar("_R")


class DatasetError(ValueError):
    """A dataset cannot be used; the message lists every reason (20 at most, and how many there are).

    Attributes
    ----------
    problems : tuple of str
        All reasons.
    """

    def __init__(self, where: str | Path, problems: Sequence[str]):
        self.problems = tuple(problems)
        if len(problems) == 1:
            text = f"{where}: {problems[0]}"
        else:
            shown = "".join(f"\n  - {problem}" for problem in problems[:_SHOWN])
            more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            text = f"{where}: {len(problems)} problems:{shown}{more}"
        super().__init__(text)


@dataclass(frozen=True)
class Case:
    """One image with its label.

    Attributes
    ----------
    id : str
        Unique in the dataset and safe as a file name.
    image : Path
        File, or folder of DICOM slices.
    label : Path or None
        File, or folder with one DICOM SEG or RTSTRUCT. None only in the test list.
    group : str
        The patient; cases of one group are never split between training and validation.
    series : str or None
        Which series of a DICOM folder, see :func:`transforms.readers.read_image`.
    allow : tuple of str
        Irregularities of a DICOM series that are accepted, see :func:`transforms.readers.read_image`.
    """

    id: str
    image: Path
    label: Path | None
    group: str
    series: str | None = None
    allow: tuple[str, ...] = ()

    @property
    def reading(self) -> dict[str, Any]:
        """How the image is to be read beside its path: "series" and "allow", each only where it is set."""
        stated = {"series": self.series, "allow": list(self.allow)}
        return {key: value for key, value in stated.items() if value}


@dataclass(frozen=True)
class Dataset:
    """Cases, class names and splits of one dataset folder.

    Attributes
    ----------
    root : Path
        The folder.
    name : str
        From dataset.json, else the folder's name.
    labels : dict of int to str
        Class id to name, 0 (background) to K-1 without gaps.
    training, validation, test : tuple of Case
        The splits.
    channels : int or None
        Number of channels that dataset.json states ("modality" or "channel_names"); to be handed to
        :func:`transforms.readers.read_image`.
    description : str
        dataset.json as it was read (canonical JSON), part of the digest; empty without one.
    """

    root: Path
    name: str
    labels: dict[int, str]
    training: tuple[Case, ...]
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    channels: int | None = None
    description: str = field(default="", repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the class ids, background first."""
        return [self.labels[index] for index in range(self.num_classes)]

    def cases(self, split: str) -> tuple[Case, ...]:
        """Return the cases of "training", "validation" or "test"."""
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        return getattr(self, split)

    def as_dicts(self, split: str) -> list[dict[str, Any]]:
        """Return a MONAI data list: "image", "label" (absent where a test case has none) and "case".

        Items of DICOM folders also hold "series" (str) and "allow" (list of str) where dataset.json states them.
        """
        items = []
        for case in self.cases(split):
            item: dict[str, Any] = {"image": str(case.image), "case": case.id, **case.reading}
            if case.label is not None:
                item["label"] = str(case.label)
            items.append(item)
        return items

    def digest(self) -> str:
        """Return a sha256 over dataset.json and the splits with path, size and modification time of every file.

        Paths count relative to the folder, so that a dataset moved with its times keeps its digest.
        """
        rows = [(split, case) for split in SPLITS for case in self.cases(split)]
        sha = hashlib.sha256(json.dumps([self.description, self.class_names, self.channels]).encode())
        for line in _parallel(lambda row: _digest_line(self.root, *row), rows):
            sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return sha.hexdigest()


def load_dataset(
    root: str | Path,
    fold: int | None = None,
    num_folds: int = 5,
    seed: int = 0,
    check: bool = True,
    validation_fraction: float = 0.2,
) -> Dataset:
    """Read a dataset folder.

    Parameters
    ----------
    root : str or Path
        Folder with a ``dataset.json`` (or the file itself), or with ``imagesTr`` and ``labelsTr``.
    fold : int, optional
        Cross-validation: this fold of the pooled training and validation lists becomes the validation set. Items
        that carry "fold" decide themselves; otherwise whole patients are dealt to `num_folds` folds by `seed`.
    num_folds : int
        Number of folds when items carry none.
    seed : int
        Of the dealing; the result depends on nothing but the seed and the patients' names.
    check : bool
        Check all headers (:func:`check_headers`).
    validation_fraction : float
        Share of the training cases that becomes the validation set where dataset.json names none (at least one
        patient; 0 for no validation at all). Items with "fold" and no list: fold 0 is the validation set.

    Raises
    ------
    DatasetError
        Listing all that is wrong.
    """
    root = Path(root)
    if root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DatasetError(root, ["no such dataset folder."])
    problems: list[str] = []
    description = root / "dataset.json"
    if description.is_file():
        where: Path = description
        source = _from_json(description, problems)
    elif (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir():
        where = root
        source = _from_folders(root, {}, None, problems)
    else:
        raise DatasetError(
            root,
            [
                'neither a dataset.json nor folders imagesTr and labelsTr here; write {"labels": {"0": "background",'
                ' "1": "liver"}, "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]} to'
                " dataset.json (docs/data.md)."
            ],
        )
    _check_ids(source.items, problems)
    dataset = Dataset(
        root=root,
        name=source.name or root.resolve().name,
        labels=source.labels,
        training=tuple(item.case for item in source.items if item.split == "training"),
        validation=tuple(item.case for item in source.items if item.split == "validation"),
        test=tuple(item.case for item in source.items if item.split == "test"),
        channels=source.channels,
        description=source.description,
    )
    if check:
        problems += _header_problems(dataset)
    if problems:
        raise DatasetError(where, problems)
    if not dataset.labels:
        dataset = _replace(dataset, labels=_labels_from_values(where, dataset))
    return _split(where, dataset, source.items, fold, num_folds, seed, validation_fraction)


def check_headers(dataset: Dataset) -> None:
    """Check without pixel data that every file is there and readable, and that labels lie on their images' grids.

    Files are opened by a pool of threads. An image and its label must have the same size, and no corner of their
    grids may lie more than `GRID_TOLERANCE` voxels apart; all cases must have the same number of axes and channels.

    Raises
    ------
    DatasetError
        Listing every broken case.
    """
    problems = _header_problems(dataset)
    if problems:
        raise DatasetError(dataset.root, problems)


def check_label_values(values: Iterable[int] | np.ndarray, labels: dict[int, str], case: Case | str) -> None:
    """Check that a label map holds only values that the dataset names.

    Parameters
    ----------
    values : iterable of int
        The values found, for instance from ``numpy.unique``.
    labels : dict of int to str
        :attr:`Dataset.labels`.
    case : Case or str
        For the message.

    Raises
    ------
    DatasetError
        Naming the case and the values.
    """
    found = sorted({int(value) for value in np.asarray(list(values)).ravel()})
    unknown = [value for value in found if value not in labels]
    if not unknown:
        return
    name, path = (case, "") if isinstance(case, str) else (case.id, f" ({case.label})")
    shown = ", ".join(map(str, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
    advice = "name them in dataset.json or correct the label map"
    if unknown == [255] and len(labels) == 2:
        advice = "a mask of 0 and 255 has to be stored as 0 and 1"
    raise DatasetError(
        f"case {name!r}{path}",
        [
            f"label value(s) {shown} are not among the classes 0 to {len(labels) - 1} of the dataset; {advice}."
        ],
    )


# --- reading the description ----------------------------------------------------------------------------------------


@dataclass
class _Item:
    case: Case
    split: str
    fold: int | None = None
    stated_group: bool = False


@dataclass
class _Source:
    name: str
    labels: dict[int, str]
    channels: int | None
    items: list[_Item]
    description: str


def _replace(dataset: Dataset, **changes: Any) -> Dataset:
    from dataclasses import replace

    return replace(dataset, **changes)


def _from_json(path: Path, problems: list[str]) -> _Source:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise DatasetError(path, [f"the key {twice[0]!r} stands twice in one object; keep one."])
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(path, [f"not valid JSON ({error}); correct it there."]) from error
    if not isinstance(content, dict):
        raise DatasetError(path, ['must hold one JSON object with "labels" and "training".'])
    root = path.parent
    labels = _parse_labels(content.get("labels"), problems)
    if labels is None:
        raise DatasetError(path, problems)
    stated = content.get("channel_names", content.get("modality"))
    channels = len(stated) if isinstance(stated, (dict, list)) and stated else None
    if "training" in content or "dataset" in content:
        items = _listed_items(root, content, problems)
    elif (root / "imagesTr").is_dir():
        source = _from_folders(root, content, channels, problems)
        items = source.items
    else:
        raise DatasetError(
            path, ['no "training" list, and no folder imagesTr beside it; name the training cases.']
        )
    if not any(item.split == "training" for item in items) and not problems:
        raise DatasetError(path, ["the training list is empty; name at least one case with image and label."])
    name = content.get("name")
    return _Source(
        name=name if isinstance(name, str) else "",
        labels=labels,
        channels=channels,
        items=items,
        description=json.dumps(content, sort_keys=True),
    )


def _parse_labels(labels: Any, problems: list[str]) -> dict[int, str] | None:
    """Read {"0": "background"} (MSD) or {"background": 0} (nnU-Net); None, and a problem, where that fails."""
    example = 'write {"0": "background", "1": "liver"}'
    if not isinstance(labels, dict) or not labels:
        problems.append(f'"labels" is missing or no object; {example}.')
        return None

    def whole(value: Any) -> bool:
        return not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value)) is not None

    if all(whole(key) for key in labels):
        pairs = [(int(key), value) for key, value in labels.items()]
    elif any(isinstance(value, (list, tuple)) for value in labels.values()):
        regions = [name for name, value in labels.items() if isinstance(value, (list, tuple))]
        problems.append(
            f'"labels" defines regions of several values ({", ".join(regions)}); overlapping regions cannot be'
            " trained: give every class one value."
        )
        return None
    elif all(whole(value) for value in labels.values()):
        pairs = [(int(value), name) for name, value in labels.items()]
    else:
        problems.append(f'"labels" does not map class ids to names; {example}.')
        return None
    pairs.sort(key=lambda pair: pair[0])
    found = [index for index, _ in pairs]
    names = [name for _, name in pairs]
    if found != list(range(len(found))) or len(found) < 2:
        problems.append(
            f'"labels" has the ids {found}; they must run from 0 (background) to K-1 without gaps, with one class or'
            " more besides the background. Renumber the label maps and dataset.json."
        )
    elif not all(isinstance(name, str) and name for name in names):
        problems.append(f'"labels" needs a name for every id; {example}.')
    elif len(set(names)) != len(names):
        problems.append('"labels" gives two ids the same name; make the names unique.')
    elif "ignore" in names:
        problems.append('"labels" has an ignore label, which is not supported; give those voxels to a class.')
    else:
        return dict(pairs)
    return None


def _listed_items(root: Path, content: dict[str, Any], problems: list[str]) -> list[_Item]:
    lists: list[tuple[str, list[Any]]] = []
    for split in SPLITS:
        entries = content.get(split, [])
        if split == "training" and split not in content and isinstance(content.get("dataset"), dict):
            entries = [  # nnU-Net's explicit spelling
                {"case": name, "image": entry.get("images"), "label": entry.get("label")}
                if isinstance(entry, dict)
                else entry
                for name, entry in content["dataset"].items()
            ]
        if not isinstance(entries, list):
            problems.append(f'"{split}" must be a list of cases.')
            continue
        lists.append((split, entries))
    items = []
    for split, entries in lists:
        for number, entry in enumerate(entries):
            item = _listed_item(root, split, f'"{split}" item {number}', entry, problems)
            if item is not None:
                items.append(item)
    return items


def _listed_item(root: Path, split: str, what: str, entry: Any, problems: list[str]) -> _Item | None:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        problems.append(f'{what} is neither a path nor an object with "image" and "label".')
        return None
    paths: dict[str, Path | None] = {}
    for key in ("image", "label"):
        value = entry.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            problems.append(
                f"{what}: {key} is a list of {len(value)} files; store the channels of a case in one file."
                if value
                else f"{what}: {key} is an empty list."
            )
            return None
        if value is None and key == "label" and split == "test":
            paths[key] = None
            continue
        if not isinstance(value, str) or not value:
            problems.append(f'{what} names no {key}; add "{key}": "path" to it.')
            return None
        paths[key] = root / value
    image, label = paths["image"], paths["label"]
    assert image is not None
    if not image.exists():  # first edition of nnU-Net: the list leaves out the channel that the file name has
        suffix = image_suffix(image)
        channel = image.with_name(f"{image.name[: len(image.name) - len(suffix)]}_0000{suffix}")
        if suffix and channel.exists():
            image = channel
    stated_id = next((entry[key] for key in _ID_KEYS if entry.get(key) not in (None, "")), None)
    identity = str(stated_id) if stated_id is not None else _case_id(image, label)
    group = next((entry[key] for key in _GROUP_KEYS if entry.get(key) not in (None, "")), None)
    fold = entry.get("fold")
    if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int)):
        problems.append(f'{what}: "fold" is {fold!r}; it must be a whole number.')
        return None
    series, allow = entry.get("series"), entry.get("allow", [])
    if series is not None and (not isinstance(series, str) or not series):
        problems.append(
            f'{what}: "series" is {series!r}; it must be a text that names one series of the folder.'
        )
        return None
    if not isinstance(allow, list) or not all(isinstance(word, str) and word for word in allow):
        problems.append(f'{what}: "allow" is {allow!r}; it must be a list of words.')
        return None
    patient = str(group) if group is not None else identity
    case = Case(identity, image, label, patient, series, tuple(allow))
    return _Item(case, split, fold, group is not None)


def _stem(path: Path) -> str:
    suffix = image_suffix(path)
    if not suffix and path.suffix.lower() == ".dcm" and not path.is_dir():
        suffix = path.suffix
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def _case_id(image: Path, label: Path | None) -> str:
    stem = _stem(image)
    if stem.endswith("_0000") and (label is None or _stem(label) != stem):
        stem = stem[:-5]
    return stem


def _entries(folder: Path, ending: str | None, labels: bool = False) -> list[Path]:
    """List images of a folder by name; hidden files (macOS leaves ``._`` twins in archives) are no images.

    Among labels also single DICOM files, each a SEG or RTSTRUCT.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            wanted = entry.name.endswith(ending) if ending else image_suffix(entry.name) != ""
            if labels and ending is None and entry.name.lower().endswith(".dcm"):
                wanted = True
            if wanted or (ending in (None, "") and entry.is_dir()):
                found.append(folder / entry.name)
    return sorted(found)


def _from_folders(root: Path, content: dict[str, Any], channels: int | None, problems: list[str]) -> _Source:
    ending = content.get("file_ending")
    if ending is not None and (not isinstance(ending, str) or ending.lower() not in SUFFIXES):
        raise DatasetError(
            root / "dataset.json", [f'"file_ending" {ending!r} is unknown; use {", ".join(SUFFIXES)}.']
        )
    items: list[_Item] = []
    for split, images, labels in (("training", "imagesTr", "labelsTr"), ("test", "imagesTs", "labelsTs")):
        if not (root / images).is_dir():
            continue
        by_stem: dict[str, Path] = {}
        for label in _entries(root / labels, ending, labels=True) if (root / labels).is_dir() else []:
            if _stem(label) in by_stem:
                problems.append(
                    f"{label}: {by_stem[_stem(label)].name} is a label of the same case; keep one."
                )
            by_stem[_stem(label)] = label
        used: set[str] = set()
        for image in _entries(root / images, ending):
            stem = _stem(image)
            numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
            if stem not in by_stem and numbered:
                identity, channel = numbered.groups()
                if channel != "0000" and (identity in by_stem or split == "test"):
                    problems.append(
                        f"case {identity!r}: {image} is a further channel of this case; store all channels of a"
                        " case in one file."
                    )
                    used.add(identity)
                    continue
                stem = identity
            if stem not in by_stem and split == "training":
                problems.append(f"case {stem!r}: {image} has no label; {root / labels}/{stem}.* is missing.")
                continue
            used.add(stem)
            items.append(_Item(Case(stem, image, by_stem.get(stem), stem), split))
        for stem in sorted(by_stem.keys() - used):
            problems.append(f"case {stem!r}: {by_stem[stem]} has no image in {root / images}.")
    if not any(item.split == "training" for item in items) and not problems:
        raise DatasetError(
            root / "imagesTr", [f"no images here; readable are {', '.join(SUFFIXES)} and DICOM folders."]
        )
    return _Source("", {}, channels, items, "")


# --- checking -------------------------------------------------------------------------------------------------------


def _check_ids(items: list[_Item], problems: list[str]) -> None:
    by_id: dict[str, list[Case]] = {}
    by_image: dict[str, _Item] = {}
    for item in items:
        case = item.case
        if (
            re.search(r'[\x00-\x1f<>:"/\\|?*]', case.id)
            or case.id != case.id.strip(" .")
            or len(case.id) > 120
        ):
            problems.append(
                f'case {case.id!r} ({case.image}): the id is no safe file name; rename it or add "case": "name".'
            )
        image = os.path.normpath(case.image)
        first = by_image.setdefault(image, item)
        if first is not item:
            problems.append(
                f"case {case.id!r}: {case.image} is listed twice (in {first.split} and {item.split}); keep one."
            )
            continue
        by_id.setdefault(case.id.casefold(), []).append(case)
    for same in by_id.values():
        if len(same) > 1:
            more = f" and {len(same) - 2} more" if len(same) > 2 else ""
            problems.append(
                f"case {same[0].id!r}: {same[0].image}, {same[1].image}{more} have the same case id (upper and lower"
                ' case count as equal); rename them or add "case": "name" to each item.'
            )
    where: dict[str, str] = {}
    for item in items:
        if item.stated_group and where.setdefault(item.case.group, item.split) != item.split:
            problems.append(
                f"case {item.case.id!r}: patient {item.case.group!r} is in both {where[item.case.group]} and"
                f" {item.split}; keep all images of a patient in one list."
            )


def _workers() -> int:
    return min(32, 4 * (os.cpu_count() or 1))


def _parallel(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Map with threads, in chunks: one task per case would cost more than reading a header."""
    size = max(1, min(256, len(items) // _workers()))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(_workers()) as pool:
        return [
            result
            for chunk in pool.map(lambda part: [function(item) for item in part], chunks)
            for result in chunk
        ]


def _header_problems(dataset: Dataset) -> list[str]:
    cases = [case for split in SPLITS for case in dataset.cases(split)]
    results = _parallel(lambda case: _check_case(case, dataset.channels, dataset.labels), cases)
    problems = [
        f"case {case.id!r}: {problem}"
        for case, (_, found) in zip(cases, results, strict=True)
        for problem in found
    ]
    readable = [
        (case, header) for case, (header, _) in zip(cases, results, strict=True) if header is not None
    ]
    for what, key in (
        ("axes", lambda header: len(header.shape)),
        ("channels", lambda header: header.channels),
    ):
        counts = Counter(key(header) for _, header in readable)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            problems += [
                f"case {case.id!r}: {case.image} has {key(header)} {what}, most cases have {usual}; a dataset holds one"
                " kind of image."
                for case, header in readable
                if key(header) != usual
            ]
    return problems


def _check_case(case: Case, channels: int | None, labels: dict[int, str]) -> tuple[Header | None, list[str]]:
    problems: list[str] = []
    headers: list[Header | None] = []
    for what, path in (("image", case.image), ("label", case.label)):
        header = None
        if path is not None:
            try:
                if what == "image":
                    header = read_header(path, channels=channels, **case.reading)
                elif is_dicom_label(path):
                    check_dicom_label(path, labels, case.image)
                else:
                    header = read_header(path)
            except ImageError as error:
                problems.append(f"{what} {error}")
            except OSError as error:
                problems.append(f"{what} {path}: cannot be opened ({error.strerror or error}).")
        headers.append(header)
    image, label = headers
    if image is not None and channels is not None and channels > 1 and image.channels != channels:
        problems.append(
            f"image {case.image}: {image.channels} channel(s), but dataset.json names {channels}; store all channels of"
            " a case in one file, or correct dataset.json."
        )
    if label is not None and label.channels != 1 and image_suffix(str(case.label)) not in PICTURE_SUFFIXES:
        problems.append(
            f"label {case.label}: {label.channels} values per voxel; store one class id per voxel."
        )
    if image is not None and label is not None:
        difference = grid_difference(image, label)
        if difference:
            problems.append(
                f"label {case.label} is not on the grid of image {case.image}: {difference}; resample the label to the"
                " image with nearest neighbour, or find the image it was drawn on."
            )
    return image, problems


def grid_difference(first: Header, second: Header) -> str:
    """Say how two grids differ, or return "" when they are equal within `GRID_TOLERANCE` voxels."""
    if first.shape != second.shape:
        return f"size {first.shape} against {second.shape}"
    if np.array_equal(first.affine, second.affine):
        return ""
    size = first.shape + (1,) * (3 - len(first.shape))
    corners = np.array(
        [[x, y, z, 1] for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)]
    ).T
    apart = (np.linalg.inv(first.affine) @ second.affine - np.eye(4)) @ corners
    if np.abs(apart).max() <= GRID_TOLERANCE:
        return ""
    distance = float(np.linalg.norm((second.affine - first.affine) @ corners, axis=0).max())
    return f"corners lie up to {distance:.4g} mm apart ({np.abs(apart).max():.3g} voxels)"


def _labels_from_values(where: Path, dataset: Dataset) -> dict[int, str]:
    """Name classes after the values of all label maps, which have to be read for that."""

    def values(case: Case) -> tuple[np.ndarray, str]:
        assert case.label is not None
        try:
            if is_dicom_label(case.label):
                check_dicom_label(case.label, None)
            return np.unique(read_label(case.label).numpy()), ""
        except ImageError as error:
            return np.zeros(0, np.int32), f"case {case.id!r}: label {error}"

    results = _parallel(values, dataset.training)
    problems = [problem for _, problem in results if problem]
    if problems:
        raise DatasetError(where, problems)
    found = sorted({int(value) for array, _ in results for value in array} | {0})
    if found != list(range(len(found))) or len(found) < 2:
        raise DatasetError(
            where,
            [
                f"without a dataset.json the classes are the values of the label maps, and these hold {found[:20]}; they"
                " must run from 0 to K-1 without gaps. Renumber them, or write a dataset.json."
            ],
        )
    return {index: f"class_{index}" if index else "background" for index in found}


# --- splitting ------------------------------------------------------------------------------------------------------


def _dealt(cases: Iterable[Case], seed: int) -> list[list[Case]]:
    """Return the cases of each patient, patients in an order that only the seed and their names decide."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)

    def key(group: str) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).hexdigest(), group

    return [groups[group] for group in sorted(groups, key=key)]


def _split(
    where: Path,
    dataset: Dataset,
    items: list[_Item],
    fold: int | None,
    num_folds: int,
    seed: int,
    fraction: float,
) -> Dataset:
    labelled = [item for item in items if item.split != "test"]
    numbered = [item for item in labelled if item.fold is not None]
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction is {fraction}; it must be at least 0 and less than 1.")
    if fold is None and (dataset.validation or (fraction == 0 and not numbered)):
        return dataset
    if numbered:
        return _stated_fold(where, dataset, labelled, fold or 0)
    if fold is not None:
        if num_folds < 2 or not 0 <= fold < num_folds:
            raise ValueError(
                f"fold is {fold} of {num_folds}; it must be 0 to num_folds - 1, with 2 folds or more."
            )
        groups = _dealt(dataset.training + dataset.validation, seed)
        if len(groups) < num_folds:
            raise DatasetError(
                where, [f"{num_folds} folds need as many patients, and there are {len(groups)}."]
            )
        folds: list[list[Case]] = [[] for _ in range(num_folds)]
        for group in sorted(groups, key=len, reverse=True):  # stable: equal sizes stay in dealt order
            min(folds, key=len).extend(group)
        held_out = {case.id for case in folds[fold]}
    else:
        groups = _dealt(dataset.training, seed)
        if len(groups) < 2:
            kind = "case" if len(dataset.training) == 1 else "patient"
            raise DatasetError(
                where,
                [
                    f'there is one {kind} and no "validation" list; name at least one {kind} for validation, or train'
                    " without validation (validation_fraction=0)."
                ],
            )
        target = max(1, round(fraction * len(dataset.training)))
        held_out = set()
        for group in groups[:-1]:
            if len(held_out) >= target:
                break
            held_out |= {case.id for case in group}
    pool = dataset.training + dataset.validation
    return _replace(
        dataset,
        training=tuple(case for case in pool if case.id not in held_out),
        validation=tuple(case for case in pool if case.id in held_out),
    )


def _stated_fold(where: Path, dataset: Dataset, items: list[_Item], fold: int) -> Dataset:
    missing = [
        f"case {item.case.id!r} has no fold, but others have one; add it."
        for item in items
        if item.fold is None
    ]
    if missing:
        raise DatasetError(where, missing)
    folds = sorted({item.fold for item in items if item.fold is not None})
    if fold not in folds or len(folds) < 2:
        raise DatasetError(where, [f"fold {fold} was asked for, and the cases carry the folds {folds}."])
    by_group: dict[str, set[int | None]] = {}
    for item in items:
        by_group.setdefault(item.case.group, set()).add(item.fold)
    leaks = [
        f"patient {group!r} is in several folds; give one."
        for group, found in by_group.items()
        if len(found) > 1
    ]
    if leaks:
        raise DatasetError(where, leaks)
    return _replace(
        dataset,
        training=tuple(item.case for item in items if item.fold != fold),
        validation=tuple(item.case for item in items if item.fold == fold),
    )


def _digest_line(root: Path, split: str, case: Case) -> str:
    fields: list[Any] = [split, case.id, case.group, *([case.reading] if case.reading else [])]
    for path in (case.image, case.label):
        if path is None:
            fields.append(None)
            continue
        try:
            name = path.relative_to(root).as_posix()
        except ValueError:
            name = str(path)
        # Slices may lie in nested folders.
        files = sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
        stats = [
            (file.relative_to(path).as_posix() if file != path else file.name, file.stat()) for file in files
        ]
        fields.append([name, [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]])
    return json.dumps(fields)
