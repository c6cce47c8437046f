"""A dataset of colour pictures as nnU-Net's raw data; `python -m pipelines convert --to nnunet` links all other data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.data.cases import Case, Dataset


def write_pictures(dataset: Dataset, folder: Path) -> None:
    """Write pictures as PNG, without loss, since nnU-Net reads no JPEG; a mask of two values becomes 0 and 1.

    ``splits_final.json`` beside ``dataset.json`` has the dataset's lists.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for case in (*dataset.training, *dataset.validation):
        _write(case, folder)
    description = {
        "channel_names": {str(at): name for at, name in enumerate(dataset.channel_names)},
        "labels": {name: value for value, name in dataset.labels.items()},
        "numTraining": len(dataset.training) + len(dataset.validation),
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    split = {"train": [case.id for case in dataset.training], "val": [case.id for case in dataset.validation]}
    (folder / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")


def _write(case: Case, folder: Path) -> None:
    if case.label is None:
        raise ValueError(f"{case.id} has no label")
    with Image.open(case.image) as image, Image.open(case.label) as mask:
        image.save(folder / "imagesTr" / f"{case.id}_0000.png")
        label = np.asarray(mask.convert("L"))
    values = np.unique(label)
    if len(values) == 2 and values[1] > 1:
        label = (label > 0).astype(np.uint8)
    Image.fromarray(label).save(folder / "labelsTr" / f"{case.id}.png")
