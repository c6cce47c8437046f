"""Datasets like BRATS: a tumour within a tumour, named as overlapping regions, and annotated only in parts."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.pipelines.small import LEVELS

REGIONS = {"whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
IGNORE = 4
LABELS = {"background": 0, **REGIONS, "ignore": IGNORE}
SHAPE = (24, 22, 20)


def nested(shape=SHAPE, seed=0):
    """Classes 0 to 3 (*shape): balls around one another, somewhere in the middle."""
    random = np.random.default_rng(seed)
    size = np.array(shape)
    centre = size / 2 + random.uniform(-1.5, 1.5, 3)
    away = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) - centre
    distance = np.sqrt((away**2).sum(-1)) / size.min()
    return np.digitize(-distance, [-0.42, -0.3, -0.18]).astype(np.uint8)


def image_of(classes):
    """HU by which the classes can be told apart."""
    return np.array(LEVELS, np.int16)[classes]


def write_tumours(folder, training=3, validation=2, labels=LABELS):
    """Training cases annotated in one slice of three, validation cases but for a corner; returns the folder."""
    folder = Path(folder)
    entries = []
    for index in range(training + validation):
        classes = nested(seed=index)
        label = classes.copy()
        if index < training:
            label[..., np.arange(SHAPE[2]) % 3 != 0] = IGNORE
        else:
            label[:9] = IGNORE
        entry = {}
        for kind, array in (("image", image_of(classes)), ("label", label)):
            path = folder / f"{kind}sTr" / f"tumour_{index}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), path)
            entry[kind] = str(path.relative_to(folder))
        entries.append(entry)
    content = {
        "name": "tumours",
        "channel_names": {"0": "CT"},
        "labels": labels,
        "regions_class_order": [1, 2, 3],
        "training": entries[:training],
        "validation": entries[training:],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
