"""Checks of the cases of a dataset before a training starts: ids, headers, grids, label values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.data.cases import SPLITS, Case, Dataset, DatasetError
from pipelines.data.dataset_json import Item
from pipelines.utils.file_names import is_portable
from pipelines.utils.threads import in_threads
from transforms.dicom.labels import check_dicom_label
from transforms.errors import ImageError
from transforms.io.grids import grid_difference, turn_between
from transforms.io.header import PICTURE_SUFFIXES, Header, image_suffix, pair_header
from transforms.io.masks import check_masks, is_mask_folder
from transforms.io.readers import is_dicom_label, label_array, read_header
from transforms.utils.sentences import few_of


def check_headers(dataset: Dataset) -> None:
    """Check, from headers alone, that every file exists and is readable and that labels lie on their images' grids.

    An image and its label must have the same voxel grid (in any order of their axes), see `transforms.io.grids`;
    all cases must have the same number of axes and channels.

    Raises:
        DatasetError: listing every broken case.
    """
    problems = header_problems(dataset)
    if problems:
        raise DatasetError(dataset.root, problems)


def check_ids(items: list[Item], problems: list[str]) -> None:
    by_id: dict[str, list[Case]] = {}
    by_image: dict[str, Item] = {}
    for item in items:
        case = item.case
        if not is_portable(case.id):
            problems.append(
                f"case {case.id!r} ({case.image}): the id cannot be used as a file name; rename the file or add"
                ' "case": "name".'
            )
        owners = [
            (path, by_image.setdefault(os.path.normpath(pair_header(path) or path), item))
            for path in case.images
        ]
        twice = [(path, first) for path, first in owners if first is not item]
        if not twice and len({os.path.normpath(path) for path in case.images}) < len(case.images):
            twice = [(case.image, item)]
        if twice:
            path, first = twice[0]
            problems.append(
                f"case {case.id!r}: {path} is listed twice (in {first.split} and {item.split}); keep one."
            )
            continue
        by_id.setdefault(case.id.casefold(), []).append(case)
    for same in by_id.values():
        if len(same) > 1:
            problems.append(
                f"case {same[0].id!r}: {few_of((s.image for s in same), 2)} have the same case id (upper and lower"
                ' case count as equal); rename them or add "case": "name" to each item.'
            )
    where: dict[str, str] = {}
    for item in items:
        if item.stated_group and where.setdefault(item.case.group, item.split) != item.split:
            problems.append(
                f"case {item.case.id!r}: patient {item.case.group!r} is in both {where[item.case.group]} and"
                f" {item.split}; keep all images of a patient in one list."
            )


def header_problems(dataset: Dataset) -> list[str]:
    cases = [case for split in SPLITS for case in dataset.cases(split)]
    results = in_threads(
        lambda case: _check_case(case, dataset.channels, dataset.segments or dataset.labels),
        cases,
        "checking headers of",
    )
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
                f"case {case.id!r}: {case.image} has {key(header)} {what}, but most cases have {usual}; all images of"
                " a dataset must have the same number."
                for case, header in readable
                if key(header) != usual
            ]
    return problems


def _check_case(
    case: Case, channels: int | None, labels: Mapping[int, str]
) -> tuple[Header | None, list[str]]:
    problems: list[str] = []
    headers: list[Header | None] = []
    for what, path in (("image", case.image), ("label", case.label)):
        header = None
        if path is not None:
            try:
                if what == "image":
                    header = read_header(case.images, channels=channels, **case.reading)
                elif is_mask_folder(path):
                    header = check_masks(path, labels)
                elif is_dicom_label(path):
                    check_dicom_label(path, labels, case.image)
                else:
                    header = read_header(path)
            except ImageError as error:
                problems.append(f"{what} {error}")
            except OSError as error:
                problems.append(f"{what} {path}: cannot be opened ({error.strerror or error}).")
            except Exception as error:  # one case must not hide the others
                problems.append(f"{what} {path}: {type(error).__name__}: {error}")
        headers.append(header)
    image, label = headers
    if image is not None and channels is not None and image.channels != channels:
        files = f" in {len(case.images)} files" if len(case.images) > 1 else ""
        problems.append(
            f"image {case.image}: {image.channels} channel(s){files}, but dataset.json lists {channels}; add the files"
            " of the missing channels, or correct dataset.json."
        )
    if label is not None and label.channels != 1 and image_suffix(str(case.label)) not in PICTURE_SUFFIXES:
        problems.append(
            f"label {case.label}: {label.channels} values per voxel; store one class id per voxel."
        )
    if image is not None and label is not None and turn_between(label, image) is None:
        problems.append(
            f"label {case.label} is not on the grid of image {case.image}: {grid_difference(image, label)}; resample the label to the"
            " image with nearest neighbour, or find the image it was drawn on."
        )
    return image, problems


def labels_from_values(where: Path, dataset: Dataset) -> dict[int, str]:
    """Name the classes after the values of all label maps, which are read for this purpose."""

    def values(case: Case) -> tuple[np.ndarray, str]:
        assert case.label is not None
        try:
            if is_dicom_label(case.label):
                check_dicom_label(case.label, None)
            return np.unique(label_array(case.label)[0]), ""
        except ImageError as error:
            return np.zeros(0, np.int32), f"case {case.id!r}: label {error}"
        except Exception as error:  # one case must not hide the others
            why = f"{case.label}: {type(error).__name__}: {error}"
            return np.zeros(0, np.int32), f"case {case.id!r}: label {why}"

    results = in_threads(values, dataset.training, "reading labels of")
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
