"""Labelled images on disk for tests of planning, and what is known of them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from pipelines.data.dataset_folder import load_dataset


def save(path, array, affine):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def turned(array, affine, axes, flips):
    """The same image with its axes in another order and some reversed, as another writer would store it."""
    to_file = np.eye(4)
    to_file[:3, :3] = 0
    for new, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        to_file[axis, new] = -1 if flip else 1
        to_file[axis, 3] = array.shape[axis] - 1 if flip else 0
    stored = array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return np.ascontiguousarray(stored), affine @ to_file


def body(shape=(40, 30, 20), seed=0):
    """A CT: air, a patient of 0 HU, two kidneys of 40 HU (1 left, 2 right) and a spine of two parts (3)."""
    random = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    image[4:36, 5:25, :] = random.integers(-20, 20, (32, 20, shape[2]))
    label = np.zeros(shape, np.uint8)
    label[6:12, 10:16, 5:11] = 1
    label[28:34, 10:16, 5:11] = 2
    label[18:22, 6:10, 2:8] = 3
    label[18:22, 6:10, 10:12] = 3
    image[(label == 1) | (label == 2)] = 40
    image[label == 3] = 300
    return image, label


LABELS = {0: "background", 1: "kidney_left", 2: "kidney_right", 3: "spine"}


def write_dataset(root, count=3, labels=None, seed=0, **content):
    """A dataset of `body`; returns it as it is loaded."""
    labels = labels or LABELS
    cases = []
    for index in range(count):
        image, label = body(seed=seed + index)
        affine = np.diag([2.0, 2.0, 5.0, 1.0])
        save(root / "images" / f"c{index}.nii.gz", image, affine)
        save(root / "labels" / f"c{index}.nii.gz", label, affine)
        cases.append({"image": f"images/c{index}.nii.gz", "label": f"labels/c{index}.nii.gz"})
    described = {
        "name": "bodies",
        "labels": {str(k): v for k, v in labels.items()},
        "training": cases,
        **content,
    }
    (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return load_dataset(root, validation_fraction=0, check=False)
