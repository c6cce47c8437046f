"""A dataset folder to cases with ids, labels and splits.

Understood are an MSD ``dataset.json`` in the spellings of the Medical Segmentation Decathlon, MONAI and nnU-Net, and
folders ``imagesTr``/``labelsTr`` without one; docs/data.md shows each. All that is wrong with a dataset is said at
once, in one `DatasetError` that names the cases and files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipelines.data.cases import Dataset, DatasetError
from pipelines.data.dataset_json import Item, from_folders, from_json
from pipelines.data.demo import prepare_demo
from pipelines.data.folds import split_cases
from pipelines.data.integrity import check_ids, header_problems, labels_from_values


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
        root: folder with a ``dataset.json`` (or the file itself), or with ``imagesTr`` and
            ``labelsTr``.
        fold: cross-validation: this fold of the pooled training and validation lists becomes the
            validation set. Items that carry "fold" decide themselves; otherwise whole patients are
            dealt to `num_folds` folds by `seed`.
        num_folds: number of folds when items carry none.
        seed: of the dealing; the result depends on nothing but the seed and the patients' names.
        check: check all headers (`check_headers`).
        validation_fraction: share of the training cases that becomes the validation set where
            dataset.json names none (at least one patient; 0 for no validation at all). Items with
            "fold" and no list: fold 0 is the validation set.

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
    """Read what a dataset folder says of itself, without opening an image.

    Args:
        root: as in `load_dataset`.
        problems: gets what is wrong with single cases.

    Returns:
        What the problems are of (dataset.json or the folder), the dataset with its lists as they stand
        there (no class names where there is no dataset.json), and its items.

    Raises:
        DatasetError: nothing can be read there.
    """
    root = Path(root)
    if root.is_file():
        root = root.parent
    if not root.is_dir():
        raise DatasetError(root, ["no such dataset folder."])
    description = root / "dataset.json"
    if description.is_file():
        where: Path = description
        source = from_json(description, problems)
    elif (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir():
        where = root
        source = from_folders(root, {}, None, problems)
    else:
        raise DatasetError(
            root,
            [
                'neither a dataset.json nor folders imagesTr and labelsTr here; write {"labels": {"0": "background",'
                ' "1": "liver"}, "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]} to'
                " dataset.json (docs/data.md)."
            ],
        )
    check_ids(source.items, problems)
    dataset = Dataset(
        root=root,
        name=source.name or root.resolve().name,
        labels=source.names.labels,
        training=tuple(item.case for item in source.items if item.split == "training"),
        validation=tuple(item.case for item in source.items if item.split == "validation"),
        test=tuple(item.case for item in source.items if item.split == "test"),
        channels=source.channels,
        description=source.description,
        regions=source.names.regions,
        ignore=source.names.ignore,
        segments=source.names.segments,
    )
    return where, dataset, source.items


DEMO = Path("data/demo")


def open_dataset(
    dataset_dir: str | os.PathLike, fold: int | None = None, seed: int = 0, num_folds: int = 5
) -> Dataset:
    """The dataset in a folder; the public demo CT is prepared when `data/demo` is asked for and absent.

    Args:
        fold, num_folds, seed: see `load_dataset`.

    Raises:
        DatasetError: the folder or a case in it cannot be used, see `pipelines.data.dataset_folder.load_dataset`.
    """
    if Path(dataset_dir) == DEMO:
        prepare_demo(DEMO)
    return load_dataset(Path(dataset_dir), fold=fold, num_folds=num_folds, seed=seed)
