"""Reading a dataset folder: its cases with ids, labels and splits.

The folder holds a ``dataset.json`` in the format of the Medical Segmentation Decathlon (MSD), MONAI or nnU-Net, or
only the folders ``imagesTr`` and ``labelsTr``, or a folder per subject as TotalSegmentator's data; docs/data.md shows
each. All problems of a dataset are reported together, in one `DatasetError` that names the cases and files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipelines.data.cases import Dataset, DatasetError
from pipelines.data.dataset_json import Item, from_folders, from_json, lists_cases, read_description
from pipelines.data.demo import prepare_demo
from pipelines.data.folds import split_cases
from pipelines.data.integrity import check_ids, header_problems, labels_from_values
from pipelines.data.subject_folders import from_subjects, holds_subjects


def load_dataset(
    root: str | Path,
    fold: int | None = None,
    num_folds: int = 5,
    seed: int = 0,
    check: bool = True,
    validation_fraction: float = 0.2,
) -> Dataset:
    """Read a dataset folder.

    Args:
        root: folder with a ``dataset.json`` (or the file itself), with ``imagesTr`` and
            ``labelsTr``, or with a folder per subject.
        fold: number of the cross-validation fold that becomes the validation set; the training and
            validation lists are pooled first. If the items have a "fold", it is used; otherwise the
            patients are distributed to `num_folds` folds at random.
        num_folds: number of folds if the items have no "fold".
        seed: of the random distribution, which depends only on the seed and the patients' names.
        check: check all headers (`check_headers`).
        validation_fraction: share of the training cases that becomes the validation set if
            dataset.json has no "validation" list (at least one patient; 0 for no validation). If the items
            have a "fold", fold 0 is the validation set instead.

    Raises:
        DatasetError: listing all that is wrong.

    Examples:
        >>> import json, nibabel as nib, numpy as np
        >>> from pathlib import Path
        >>> for name in ("ct.nii", "label.nii"):
        ...     nib.save(nib.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None], np.eye(4)), name)
        >>> case = {"image": "ct.nii", "label": "label.nii"}
        >>> content = {"labels": {"0": "background", "1": "lung"}, "training": [case]}
        >>> _ = Path("dataset.json").write_text(json.dumps(content))
        >>> load_dataset(".", validation_fraction=0).class_names
        ['background', 'lung']
    """
    problems: list[str] = []
    where, dataset, items = describe(root, problems)
    if check:
        problems += header_problems(dataset)
    if problems:
        raise DatasetError(where, problems)
    if not dataset.labels:
        dataset = replace(dataset, labels=labels_from_values(where, dataset))
    return split_cases(where, dataset, items, fold, num_folds, seed, validation_fraction)


def describe(root: str | Path, problems: list[str]) -> tuple[Path, Dataset, list[Item]]:
    """Read the description of a dataset folder without opening an image.

    Args:
        root: as in `load_dataset`.
        problems: list to which the problems of single cases are appended.

    Returns:
        The path to name in error messages (dataset.json or the folder), the dataset with the splits as
        described (without class names if there is no dataset.json), and its items.

    Raises:
        DatasetError: the folder does not exist or has no readable description.
    """
    root = Path(root)
    if root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DatasetError(root, ["no such dataset folder; correct the path."])
    description = root / "dataset.json"
    content = read_description(description) if description.is_file() else None
    if content is not None and lists_cases(description, content):
        where: Path = description
        source = from_json(description, content, problems)
    elif content is None and (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir():
        where = root
        source = from_folders(root, {}, None, problems)
    elif holds_subjects(root):
        where = root
        source = from_subjects(root, content or {}, problems)
    elif content is not None:
        raise DatasetError(
            description,
            [
                'no "training" list, and neither a folder imagesTr nor subjects with segmentations beside it; name the'
                " training cases."
            ],
        )
    else:
        raise DatasetError(
            root,
            [
                'neither a dataset.json nor folders imagesTr and labelsTr nor subjects with segmentations here; write {"labels": {"0": "background",'
                ' "1": "liver"}, "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]} to'
                " dataset.json (docs/data.md)."
            ],
        )
    check_ids(source.items, problems)
    return where, source.dataset(root), source.items


DEMO = Path("data/demo")


def open_dataset(
    dataset_dir: str | os.PathLike,
    fold: int | None = None,
    seed: int = 0,
    num_folds: int = 5,
    anonymous: bool = False,
) -> Dataset:
    """The dataset in a folder; the public demo CT is prepared if the folder is `data/demo` and does not exist.

    Args:
        fold, num_folds, seed: see `load_dataset`.
        anonymous: number the cases, see `pipelines.data.cases.Dataset.anonymous`.

    Raises:
        DatasetError: the folder or a case in it cannot be used, see `pipelines.data.dataset_folder.load_dataset`.
    """
    if Path(dataset_dir) == DEMO:
        prepare_demo(DEMO)
    found = load_dataset(Path(dataset_dir), fold=fold, num_folds=num_folds, seed=seed)
    return found.anonymous() if anonymous else found
