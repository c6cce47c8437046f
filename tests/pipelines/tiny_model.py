"""A trained model that is right without training, and CTs and folders that it segments without a mistake."""

import json
import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.prediction import Prediction
from pipelines.inference.sliding_window import SlidingWindow
from tests import dicom_phantom as ph
from tests.pipelines.small import LEVELS, NAMES, Oracle
from tests.waiting import PAUSE
from transforms.preprocess import Preprocess
from transforms.utils.files import sha256_of

HALT = "TINY_HALT_AT"
"""Environment variable `NUMBER:FOLDER`: once the folder holds so many reports, the network answers no more."""


class Halting(Oracle):
    """An Oracle that can be made to wait for whoever kills its process."""

    def forward(self, x):
        if HALT in os.environ:
            number, folder = os.environ[HALT].split(":", 1)
            parent = os.getppid()
            while len(list(Path(folder).glob("ct*.json"))) >= int(number) and os.getppid() == parent:
                time.sleep(PAUSE)
        return super().forward(x)


def write_model(folder, classes=3, name="model.pt", shift=0.0, **more):
    """`model.pt` and `model.json` of an Oracle, as a training leaves them; returns the path of the weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    weights = Oracle(classes).state_dict()
    weights["levels"] += shift
    torch.save(weights, path)
    card = {
        "labels": {str(value): NAMES[value] for value in range(classes)},
        "patch_size": [12, 12, 12],
        "preprocessing": Preprocess().parameters(),
        "network": {"_target_": "tests.pipelines.tiny_model.Halting", "classes": classes},
        "sha256": sha256_of(path),
        **more,
    }
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return path


def prediction(data, output, classes=3, preprocess=None, **options):
    """A Prediction over cases, without a config."""
    preprocess = preprocess or Preprocess()
    loader = volume_loader(VolumeDataset(data, preprocess))
    names = {value: NAMES[value] for value in range(classes)}
    window = SlidingWindow((12, 12, 12))
    engine = SegEvaluator("cpu", loader, Oracle(classes), preprocess, list(names.values())[1:], window)
    return Prediction(engine, names, output, **options)


def write_dicom(folder, label=None, series="series", description="chest"):
    """A DICOM series whose HU are those of its classes; returns the label map (X, Y, Z) in the order of positions."""
    phantom = ph.Phantom(shape=(14, 12, 10), signed=True)
    slices = phantom.slices()
    if label is None:
        label = np.zeros(phantom.shape, np.uint8)
        label[2:6, 3:9, 2:8] = 1
        label[8:12, 2:10, 3:7] = 2
    stored = np.array(LEVELS, np.int32)[label] + 1024
    for index, image in enumerate(slices):
        ph.set_pixels(image, stored[:, :, index].T & 0xFFFF)
        image.SeriesInstanceUID = f"1.2.3.{sum(map(ord, series))}"
        image.SOPInstanceUID = f"{image.SeriesInstanceUID}.{index + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesDescription = description
    ph.write_series(Path(folder), slices, seed=1)
    return label


def read(path):
    return np.asarray(nib.load(path).dataobj)
