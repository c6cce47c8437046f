"""A dataset of cases that a program lists by itself, without a folder that describes them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.data.cases import Dataset, DatasetError
from pipelines.data.dataset_json import Source, listed_items, parse_labels
from pipelines.data.folds import split_cases
from pipelines.data.integrity import check_ids, header_problems, labels_from_values
from pipelines.data.label_names import LabelNames

__all__ = ["given_dataset"]


def given_dataset(
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]] | None = None,
    labels: Mapping[str, int | list[int]] | None = None,
    name: str = "",
    seed: int = 0,
    anonymous: bool = False,
) -> Dataset:
    """The dataset of listed cases, checked as that of a folder is.

    Args:
        training, validation: items with "image" and "label", as the lists of a dataset.json; paths are absolute or
            relative to the working directory. Without a list of validation cases a fifth of the training's becomes
            it; an empty one means that there are none.
        labels: name to class id, or to the ids of a region, background included; None names the classes after the
            values of the label maps.
        name: of the dataset; by default that of the folder which all images have in common.
        seed: see `pipelines.data.dataset_folder.load_dataset`.
        anonymous: number the cases, see `pipelines.data.cases.Dataset.anonymous`.

    Raises:
        DatasetError: listing all that is wrong.

    Examples:
        >>> import nibabel as nib, numpy as np
        >>> for name in ("ct.nii", "label.nii"):
        ...     nib.save(nib.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None], np.eye(4)), name)
        >>> case = {"image": "ct.nii", "label": "label.nii"}
        >>> given_dataset([case], [], {"background": 0, "lung": 1}).class_names
        ['background', 'lung']
    """
    lists: dict[str, Any] = {"training": list(training)}
    if validation is not None:
        lists["validation"] = list(validation)
    problems: list[str] = []
    items = listed_items(Path.cwd(), lists, None, problems)
    names = None if labels is None else parse_labels({"labels": dict(labels)}, problems)
    check_ids(items, problems)
    where = _common_folder([item.case.image for item in items])
    if not items and not problems:
        problems.append("the list of cases is empty; name at least one case with image and label.")
    dataset = Source(
        name=name or f"{len(items)} cases of {where.name}",
        names=names or LabelNames({}, {}, None, {}),
        channels=None,
        items=items,
        description=json.dumps(lists if labels is None else {**lists, "labels": labels}, sort_keys=True),
    ).dataset(where)
    problems = problems or header_problems(dataset)
    if problems:
        raise DatasetError(where, problems)
    if not dataset.labels:
        dataset = replace(dataset, labels=labels_from_values(where, dataset))
    if validation is None:
        dataset = split_cases(where, dataset, items, None, 5, seed, 0.2)
    return dataset.anonymous() if anonymous else dataset


def _common_folder(images: Sequence[Path]) -> Path:
    folders = {os.fspath(image.parent) for image in images} or {os.fspath(Path.cwd())}
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # on several drives of Windows
        return Path(min(folders))
