"""One and the same small dataset of four channels, in the layouts that people keep such images in."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

NAMES = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
CASES = [f"BRATS_{index:03d}" for index in range(1, 5)]
AFFINE = np.diag([-1.0, -1.0, 1.5, 1.0])


def voxels(case: str, shape: tuple[int, ...] = (30, 26, 18)) -> tuple[np.ndarray, np.ndarray]:
    """Channels (X, Y, Z, 4) int16 and classes: a ball that two of the channels show, on a masked background."""
    random = np.random.default_rng(CASES.index(case))
    place = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = random.uniform(0.4, 0.6, 3) * shape
    ball = np.linalg.norm(place - centre, axis=-1) < random.uniform(5, 7)
    head = np.linalg.norm((place - np.array(shape) / 2) / (np.array(shape) / 2), axis=-1) < 0.95
    channels = random.normal(300, 20, (*shape, 4)) * np.array([1, 2, 3, 0.5]) + np.array([0, 50, 0, 0])
    channels[ball] += np.array([250, 0, 600, 0])
    channels[~head] = 0
    return channels.astype(np.int16), (ball & head).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return str(path)


def decathlon(root: Path) -> Path:
    """A file of four axes for each case, as the Decathlon's brain tumours have; the last case is for tests."""
    items = []
    for case in CASES:
        image, label = voxels(case)
        save(root / f"images{'Ts' if case == CASES[-1] else 'Tr'}/{case}.nii.gz", image)
        save(root / f"labels{'Ts' if case == CASES[-1] else 'Tr'}/{case}.nii.gz", label)
        items.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    content = {
        "name": "tumours",
        "tensorImageSize": "4D",
        "modality": NAMES,
        "labels": {"0": "background", "1": "tumour"},
        "training": items[:-2],
        "validation": items[-2:-1],
        "test": [f"./imagesTs/{CASES[-1]}.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def nnunet(root: Path, **more: object) -> Path:
    """A file for each channel, with folders and no lists, as nnU-Net has them."""
    for case in CASES:
        image, label = voxels(case)
        where = "Ts" if case == CASES[-1] else "Tr"
        for channel in range(4):
            save(root / f"images{where}/{case}_{channel:04d}.nii.gz", image[..., channel])
        save(root / f"labels{where}/{case}.nii.gz", label)
    content = {
        "channel_names": NAMES,
        "labels": {"background": 0, "tumour": 1},
        "numTraining": len(CASES) - 1,
        "file_ending": ".nii.gz",
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def listed(root: Path) -> Path:
    """The same files with MONAI's lists: a list of files under "image"."""
    items = [
        {
            "image": [f"imagesTr/{case}_{channel:04d}.nii.gz" for channel in range(4)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in CASES[:-1]
    ]
    return nnunet(root, training=items[:-1], validation=items[-1:])
