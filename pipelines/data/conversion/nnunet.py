"""A dataset as nnU-Net's raw data: imagesTr/<case>_0000.nii.gz and so on, by links to the files that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.data.cases import Case, Dataset
from pipelines.data.conversion.links import link_problems, path_from
from pipelines.data.dataset_json import Item
from transforms.io.header import PICTURE_SUFFIXES, image_suffix
from transforms.io.image_files import image_files

_SAME_FORMAT = {".seg.nrrd": ".nrrd", ".tiff": ".tif"}
_READABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif")
"""Endings that nnU-Net has readers for, in one file each."""


class Layout(NamedTuple):
    """What belongs into a folder of nnU-Net's raw data.

    Attributes:
        links: name below the folder to the file that it leads to.
        labels: cases whose label maps have to be written, and their names below the folder.
        ending: of all files.
    """

    links: dict[str, Path]
    labels: list[tuple[Case, str]]
    ending: str


def layout(dataset: Dataset, items: Sequence[Item], write_labels: bool, problems: list[str]) -> Layout:
    """Where every file goes.

    Args:
        dataset: for its channels.
        items: of all lists.
        write_labels: label maps that cannot be linked are written.
        problems: gets all that nnU-Net cannot read.
    """
    names = dataset.channel_names
    if not names:
        problems.append(
            'nnU-Net treats channels by their names, and there are none; add "channel_names": {"0": "CT"} (or "MRI" ...)'
            " to dataset.json."
        )
    if dataset.regions and set(_class_order(dataset)) != set(dataset.labels) - {0}:
        problems.append(
            'nnU-Net needs the value of each region; add "regions_class_order", one value per region, to dataset.json.'
        )
    ending = _shared_ending(items, problems)
    links: dict[str, Path] = {}
    labels: list[tuple[Case, str]] = []
    unlinkable: list[Case] = []
    for item in items:
        case, end = item.case, "Ts" if item.split == "test" else "Tr"
        one_file = len(case.images) == 1 and (len(names) == 1 or ending in PICTURE_SUFFIXES)
        if names and not one_file and len(case.images) != len(names):
            problems.append(
                f"case {case.id!r}: {case.image} holds {len(names)} channels ({', '.join(names)}), and nnU-Net takes a file"
                " for each; save them one by one."
                if len(case.images) == 1
                else f"case {case.id!r}: {len(case.images)} files for {len(names)} channels ({', '.join(names)})."
            )
        for channel, image in enumerate(case.images):
            links[f"images{end}/{case.id}_{channel:04d}{ending}"] = image
        if case.label is None:
            continue
        name = f"labels{end}/{case.id}{ending}"
        if _ending(case.label) == ending:
            links[name] = case.label
        elif write_labels and ending in (".nii.gz", ".nii"):
            labels.append((case, name))
        else:
            unlinkable.append(case)
    if unlinkable:
        what = (
            "folders of masks or DICOM" if unlinkable[0].label and unlinkable[0].label.is_dir() else "others"
        )
        problems.append(
            f"nnU-Net needs one label map {ending} a case, and the labels of {len(unlinkable)} cases are {what}"
            f" (such as {unlinkable[0].label}); "
            + (
                "say --write-labels to have their label maps written (images stay links)."
                if ending in (".nii.gz", ".nii")
                else f"label maps are written for .nii.gz and .nii images only; these are {ending}."
            )
        )
    _check_names(items, problems)
    return Layout(links, labels, ending)


def standing_problems(root: Path, wanted: Layout) -> list[str]:
    """What stands in the folder already and does not belong there."""
    folders: dict[str, dict[str, Path | None]] = {
        name: {} for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
    }
    every: dict[str, Path | None] = {**wanted.links, **{name: None for _, name in wanted.labels}}
    for name, file in every.items():
        folder, _, inside = name.partition("/")
        folders[folder][inside] = file
    return [problem for name, files in folders.items() for problem in link_problems(root / name, files)]


def description(
    root: Path, dataset: Dataset, items: Sequence[Item], wanted: Layout, linked: bool
) -> dict[str, Any]:
    """The content of dataset.json.

    Args:
        linked: the files lie in the folders by their names; else every case of the training is named with its paths.
    """
    labelled = [item.case for item in items if item.split != "test"]
    found: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
        "labels": dataset.stated_labels,
        "numTraining": len(labelled),
        "file_ending": wanted.ending,
    }
    if dataset.regions:
        found["regions_class_order"] = _class_order(dataset)
    if not linked:
        written = {case.id: name for case, name in wanted.labels}
        found["dataset"] = {
            case.id: {
                "images": [path_from(root, image) for image in case.images],
                "label": written.get(case.id) or path_from(root, case.label),
            }
            for case in labelled
            if case.label is not None
        }
    return found


def _class_order(dataset: Dataset) -> list[int]:
    """The value that nnU-Net gives to the voxels of each region but for those of later ones."""
    stated = json.loads(dataset.description).get("regions_class_order")
    return stated or [min(values) for values in dataset.regions.values()]


def _ending(path: Path) -> str:
    """The ending by which nnU-Net can read a file; "" for a folder, DICOM and images of several files."""
    suffix = image_suffix(path)
    if path.is_dir() or len(image_files(path)) > 1:
        return ""
    suffix = _SAME_FORMAT.get(suffix, suffix)
    return suffix if suffix in _READABLE else ""


def _shared_ending(items: Sequence[Item], problems: list[str]) -> str:
    endings: dict[str, list[Path]] = {}
    for item in items:
        for image in item.case.images:
            endings.setdefault(_ending(image), []).append(image)
    unknown = endings.pop("", [])
    if unknown:
        problems.append(
            f"nnU-Net reads {', '.join(_READABLE)}, one file a channel, and {len(unknown)} images are others, such as"
            f" {unknown[0]}; convert them."
        )
    if len(endings) > 1:
        said = ", ".join(f"{ending} ({files[0]})" for ending, files in sorted(endings.items()))
        problems.append(
            f"nnU-Net needs one ending for all images, and these have several: {said}; convert them to one."
        )
    return min(endings, key=lambda ending: -len(endings[ending]), default=".nii.gz")


def _check_names(items: Sequence[Item], problems: list[str]) -> None:
    ids = {item.case.id.casefold(): item.case.id for item in items}
    for item in items:
        for channel in range(len(item.case.images)):
            name = f"{item.case.id}_{channel:04d}"
            if name.casefold() in ids:
                problems.append(
                    f"case {ids[name.casefold()]!r}: its name is that of a file of channel {channel} of the case"
                    f" {item.case.id!r}; give one of them another name."
                )


def check_folder_name(root: Path, name: str, problems: list[str]) -> None:
    """nnU-Net finds a dataset by the three digits in its folder's name."""
    if not re.fullmatch(r"Dataset\d{3}_[^\s/\\]+", root.name):
        word = re.sub(r"\W+", "_", name).strip("_") or "Name"
        problems.append(
            f"nnU-Net finds datasets by names such as Dataset001_{word}; call the folder so, not {root.name!r}."
        )
