"""Reading dataset.json in the formats of the Decathlon, MONAI and nnU-Net, and folders without one (docs/data.md)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.cases import SPLITS, Case, Dataset, DatasetError
from pipelines.data.channel_files import channel_file, missing_channels, numbered
from pipelines.data.label_names import LabelNames, LabelsError, label_names
from pipelines.data.missing_files import may_be_an_image
from pipelines.utils.file_names import readable
from pipelines.utils.json_files import JsonError, read_json
from transforms.io.header import SUFFIXES, image_suffix, names_image

_GROUP_KEYS = ("patient", "group", "subject")
_ID_KEYS = ("case", "id")


@dataclass
class Item:
    case: Case
    split: str
    fold: int | None = None
    stated_group: bool = False


@dataclass
class Source:
    name: str
    names: LabelNames
    channels: int | None
    items: list[Item]
    description: str

    def dataset(self, root: Path) -> Dataset:
        """The dataset of these cases, with the splits that they name; nothing is checked.

        Args:
            root: its folder, which names it if the description does not.
        """
        training, validation, test = (
            tuple(item.case for item in self.items if item.split == split) for split in SPLITS
        )
        return Dataset(
            root=root,
            name=self.name or root.resolve().name,
            labels=self.names.labels,
            training=training,
            validation=validation,
            test=test,
            channels=self.channels,
            description=self.description,
            regions=self.names.regions,
            ignore=self.names.ignore,
            segments=self.names.segments,
        )


def read_description(path: Path) -> dict[str, Any]:
    """The object in a dataset.json.

    Raises:
        DatasetError: it is none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise DatasetError(path, [f"the key {twice[0]!r} occurs twice in one object; keep one."])
        return dict(pairs)

    try:
        content = read_json(path, unique)
    except JsonError as error:
        raise DatasetError(path, [f"{error}; correct it there."]) from error
    if not isinstance(content, dict):
        raise DatasetError(path, ['must hold one JSON object with "labels" and "training".'])
    return content


def lists_cases(path: Path, content: dict[str, Any]) -> bool:
    """Whether a dataset.json says which cases there are, by itself or by the folders beside it."""
    return "training" in content or "dataset" in content or (path.parent / "imagesTr").is_dir()


def from_json(path: Path, content: dict[str, Any], problems: list[str]) -> Source:
    root = path.parent
    names = parse_labels(content, problems)
    if names is None:
        raise DatasetError(path, problems)
    stated = content.get("channel_names", content.get("modality"))
    channels = len(stated) if isinstance(stated, (dict, list)) and stated else None
    if "training" in content or "dataset" in content:
        items = listed_items(root, content, channels, problems)
    else:
        items = from_folders(root, content, channels, problems).items
    if not any(item.split == "training" for item in items) and not problems:
        raise DatasetError(path, ["the training list is empty; name at least one case with image and label."])
    name = content.get("name")
    return Source(
        name=name if isinstance(name, str) else "",
        names=names,
        channels=channels,
        items=items,
        description=json.dumps(content, sort_keys=True),
    )


def parse_labels(content: Mapping[str, Any], problems: list[str]) -> LabelNames | None:
    """Read the meaning of the values of label maps; if invalid for a training, add a problem and return None."""
    try:
        names = label_names(content)
    except LabelsError as error:
        problems.append(str(error))
        return None
    found = list(names.labels)
    if found == list(range(len(found))) and len(found) > 1:
        if names.ignore in (None, len(found)):
            return names
        problems.append(
            f'"labels" has the ignore label {names.ignore}, and there must be no gap between the classes and it:'
            f" {len(found)}. Renumber it in the label maps and dataset.json."
        )
        return None
    if names.regions:
        problems.append(
            f'"labels" has regions of the values {[value for value in found if value != 0]}; together they must cover 1 to'
            ' K-1 without gaps, besides "background": 0. Name the values that are missing, or renumber the label maps.'
        )
    else:
        problems.append(
            f'"labels" has the ids {found}; they must run from 0 (background) to K-1 without gaps, with at least one'
            " class besides the background. Renumber the label maps and dataset.json."
        )
    return None


def listed_items(
    root: Path, content: dict[str, Any], channels: int | None, problems: list[str]
) -> list[Item]:
    lists: list[tuple[str, list[Any]]] = []
    for split in SPLITS:
        entries = content.get(split, [])
        if split == "training" and split not in content and isinstance(content.get("dataset"), dict):
            entries = [  # nnU-Net: "dataset" lists the files of each case
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
            item = _listed_item(root, split, f'"{split}" item {number}', entry, channels, problems)
            if item is not None:
                items.append(item)
    return items


def _listed_item(
    root: Path, split: str, what: str, entry: Any, channels: int | None, problems: list[str]
) -> Item | None:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        problems.append(f'{what} is neither a path nor an object with "image" and "label".')
        return None
    paths: dict[str, tuple[Path, ...]] = {}
    for key in ("image", "label"):
        value = entry.get(key)
        if value is None and key == "label" and split == "test":
            paths[key] = ()
            continue
        values: list[Any] = value if isinstance(value, list) else [value]
        if not values:
            problems.append(f"{what}: {key} is an empty list.")
            return None
        if not all(isinstance(path, str) and path for path in values):
            problems.append(f'{what} has no {key}; add "{key}": "path" to it.')
            return None
        if key == "label" and len(values) > 1:
            problems.append(
                f"{what}: label is a list of {len(values)} files; store one class id per voxel in one file."
            )
            return None
        paths[key] = tuple(root / path for path in values)
    images, label = paths["image"], (*paths["label"], None)[0]
    if len(images) == 1:
        images = _with_channels(images[0], channels)
    image = images[0]
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
            f'{what}: "series" is {series!r}; it must be a string that identifies one series of the folder.'
        )
        return None
    if not isinstance(allow, list) or not all(isinstance(word, str) and word for word in allow):
        problems.append(f'{what}: "allow" is {allow!r}; it must be a list of words.')
        return None
    mask = entry.get("mask")
    if mask is not None and (not isinstance(mask, str) or not mask):
        problems.append(f'{what}: "mask" is {mask!r}; it must be the path of one file.')
        return None
    patient = str(group) if group is not None else identity
    case = Case(identity, images, label, patient, series, tuple(allow), None if mask is None else root / mask)
    return Item(case, split, fold, group is not None)


def _with_channels(image: Path, channels: int | None) -> tuple[Path, ...]:
    """The files of an image whose channels the list leaves out, as the first edition of nnU-Net does."""
    if os.path.exists(image) or not image_suffix(image):
        return (image,)
    found = 0
    while os.path.exists(channel_file(image, found)):
        found += 1
    if found > 1:
        found = max(found, channels or 0)  # reading the dataset says which file is missing
    return tuple(channel_file(image, index) for index in range(found)) or (image,)


def image_stem(path: Path) -> str:
    """The name of an image or label without its ending, by which files of one case are matched."""
    suffix = image_suffix(path)
    if not suffix and path.suffix.lower() == ".dcm" and not path.is_dir():
        suffix = path.suffix
    return readable(path.name[: len(path.name) - len(suffix)])


def _case_id(image: Path, label: Path | None) -> str:
    stem = image_stem(image)
    if stem.endswith("_0000") and (label is None or image_stem(label) != stem):
        stem = stem[:-5]
    return stem


def _entries(folder: Path, ending: str | None, labels: bool = False) -> list[Path]:
    """List the images of a folder, sorted by name, without hidden files (archives from macOS contain ``._*`` copies).

    Labels may also be single DICOM files (SEG or RTSTRUCT). Broken links are included if their name may be an image's.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            wanted = entry.name.endswith(ending) if ending else names_image(entry.path)
            if labels and ending is None and entry.name.lower().endswith(".dcm"):
                wanted = True
            if wanted or (ending in (None, "") and (os.path.isdir(entry) or may_be_an_image(entry.path))):
                found.append(folder / entry.name)
    return sorted(found)


def from_folders(root: Path, content: dict[str, Any], channels: int | None, problems: list[str]) -> Source:
    ending = content.get("file_ending")
    if ending is not None and (not isinstance(ending, str) or ending.lower() not in SUFFIXES):
        raise DatasetError(
            root / "dataset.json", [f'"file_ending" {ending!r} is unknown; use {", ".join(SUFFIXES)}.']
        )
    items: list[Item] = []
    in_channels = False
    for split, images, labels in (("training", "imagesTr", "labelsTr"), ("test", "imagesTs", "labelsTs")):
        if not (root / images).is_dir():
            continue
        by_stem: dict[str, Path] = {}
        for label in _entries(root / labels, ending, labels=True) if (root / labels).is_dir() else []:
            if image_stem(label) in by_stem:
                problems.append(
                    f"{label}: {by_stem[image_stem(label)].name} is a label of the same case; keep one."
                )
            by_stem[image_stem(label)] = label
        used: set[str] = set()
        listed = _entries(root / images, ending)
        parts = Counter(found[0] for image in listed if (found := numbered(image_stem(image))))
        cases: list[tuple[str, list[tuple[int, Path]]]] = []
        channels_of: dict[str, list[tuple[int, Path]]] = {}
        for image in listed:
            stem = image_stem(image)
            part = numbered(stem) if stem not in by_stem else None
            # Test images have no labels to tell a channel by: they are named as those of the training are.
            if part and (part[0] in by_stem or (split == "test" and (in_channels or parts[part[0]] == 1))):
                identity, channel = part
                if identity not in channels_of:
                    channels_of[identity] = []
                    cases.append((identity, channels_of[identity]))
                channels_of[identity].append((channel, image))
            else:
                cases.append((stem, [(0, image)]))
        in_channels = in_channels or bool(channels_of)
        for stem, files in cases:
            if stem not in by_stem and split == "training":
                problems.append(
                    f"case {stem!r}: {files[0][1]} has no label; {root / labels}/{stem}.* is missing."
                )
                continue
            used.add(stem)
            lacking = missing_channels([channel for channel, _ in files])
            if lacking:
                problems.append(f"case {stem!r}: {files[0][1]}: {lacking}.")
                continue
            paths = tuple(path for _, path in sorted(files))
            items.append(Item(Case(stem, paths, by_stem.get(stem), stem), split))
        for stem in sorted(by_stem.keys() - used):
            problems.append(f"case {stem!r}: {by_stem[stem]} has no image in {root / images}.")
    if not any(item.split == "training" for item in items) and not problems:
        raise DatasetError(
            root / "imagesTr",
            [f"the folder has no images; add images ({', '.join(SUFFIXES)}) or DICOM folders."],
        )
    return Source("", LabelNames({}, {}, None, {}), channels, items, "")
