"""Dataset folders of small files, in any spelling."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

LABELS = {"0": "background", "1": "liver", "2": "spleen"}


def write(path: Path, shape=(4, 5, 3), affine=None, values=3) -> Path:
    """A small NIfTI: an image and a label map alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (np.arange(np.prod(shape)) % values).reshape(shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1]) if affine is None else affine), path)
    return path


def pair(root: Path, name: str, images="imagesTr", labels="labelsTr", channel="") -> dict[str, str]:
    write(root / images / f"{name}{channel}.nii.gz")
    write(root / labels / f"{name}.nii.gz")
    return {"image": f"{images}/{name}{channel}.nii.gz", "label": f"{labels}/{name}.nii.gz"}


def describe(root: Path, **content: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def ids(cases) -> list[str]:
    return [case.id for case in cases]


def bare(count: int, per_patient: int = 1) -> dict[str, object]:
    """A description without files, for what never opens one (check=False)."""
    items = [
        {"image": f"i/c{n}.nii.gz", "label": f"l/c{n}.nii.gz", "patient": f"p{n // per_patient}"}
        for n in range(count)
    ]
    return {"labels": LABELS, "training": items}


def subject(root: Path, name: str, classes=("liver", "spleen"), image="ct.nii.gz", seed=0) -> Path:
    """A folder as TotalSegmentator's data sets have them: an image of 6 x 5 x 4 voxels and a mask a class."""
    folder = root / name
    (folder / "segmentations").mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.5, 1.5, 1.5, 1])
    values = np.random.default_rng(seed).integers(-900, 900, (6, 5, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, affine), folder / image)
    for place, label in enumerate(classes):
        mask = np.zeros((6, 5, 4), np.uint8)
        mask[place] = 1
        nib.save(nib.Nifti1Image(mask, affine), folder / "segmentations" / f"{label}.nii.gz")
    return folder
