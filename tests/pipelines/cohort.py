"""Small cohorts on disk, and preprocessing that other processes of a test can import in little time.

`Light` has the interface of `Preprocess` but reads with nibabel alone: a process that needs no MONAI starts
several seconds sooner.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch

from tests.waiting import PAUSE
from transforms.intensity import CTWindow
from transforms.label_values import check_label_values
from transforms.spatial.geometry import Geometry, orient, to_oriented

LABELS = {0: "background", 1: "organ", 2: "lesion"}


class LightPrepared(NamedTuple):
    codes: np.ndarray
    geometry: Geometry
    intensity: dict


class Light:
    """RAS orientation and a CT window; writes each image's name to `log`.

    At a path that holds `deadly` the process dies, and at one that holds one of `endless` it stays for ever.
    """

    def __init__(self, log=None, deadly=None, endless=()):
        self.log = None if log is None else str(log)
        self.deadly = deadly
        self.endless = endless
        self.window = CTWindow(-1000, 1000)

    def parameters(self):
        return {"kind": "light", **self.window.parameters()}

    def image(self, path):
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{os.path.basename(path)}\n")
        if self.deadly is not None and self.deadly in str(path):
            os._exit(9)  # as the kernel ends a process that needs too much memory
        while any(part in str(path) for part in self.endless):
            time.sleep(PAUSE)
        image = nibabel.load(path)
        geometry = orient(image.shape, image.affine)
        volume = to_oriented(torch.from_numpy(image.get_fdata(dtype=np.float32))[None], geometry)
        codes, intensity = self.window.encode(volume)
        return LightPrepared(codes.numpy(), geometry, intensity)

    def label(self, path, geometry, named=None):
        label = np.asarray(nibabel.load(path).dataobj)
        if named is not None:
            check_label_values(np.unique(label), dict.fromkeys(named, ""), str(path))
        dtype = np.uint8 if label.max() <= 255 else np.uint16
        return to_oriented(torch.from_numpy(label.astype(np.int32))[None], geometry)[0].numpy().astype(dtype)

    def normalise(self, codes, intensity):
        return self.window.decode(torch.as_tensor(codes), intensity)

    def padding_code(self, intensity):
        return self.window.padding(intensity)


def save(path, array):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def case_paths(folder, count):
    """The dictionaries of `make_cases`, without making files."""
    return [
        {k: str(Path(folder) / f"{k}-case{i}.nii.gz") for k in ("image", "label")} | {"case": f"case{i}"}
        for i in range(count)
    ]


def make_cases(folder, count, shape=(70, 66, 40), seed=0):
    """Image and label files of `count` cases: noise, a box of class 1 and in it a box of class 2."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    data = case_paths(folder, count)
    for i, case in enumerate(data):
        label = np.zeros(shape, np.uint8)
        label[5 : 40 + i, 10:40, 5:30] = 1
        label[20:25, 20:26, 10:14] = 2
        save(case["image"], random.integers(-1000, 1000, shape).astype(np.int16))
        save(case["label"], label)
    return data


def built(log):
    """The images that were preprocessed, in order."""
    return Path(log).read_text(encoding="utf-8").split() if Path(log).exists() else []


def entries(store):
    return sorted(p.name for p in store.folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def leftovers(store):
    return sorted(p.name for p in store.folder.iterdir() if p.name.startswith(".tmp-"))
