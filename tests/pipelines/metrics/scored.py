"""Cases with metrics."""

import math

import numpy as np
import torch

from pipelines.metrics.overlap import confusion_matrix, overlap_metrics
from pipelines.metrics.surfaces import surface_metrics
from tests.pipelines import masks

NAMES = ["liver", "cyst", "stone"]


def scored(prediction, reference, names=NAMES, voxel_ml=0.5):
    pair = (torch.as_tensor(prediction), torch.as_tensor(reference))
    return overlap_metrics(confusion_matrix(*pair, len(names) + 1), names, voxel_ml)


CASES = [
    {"case": "a", "dice": {"liver": 0.9, "cyst": math.nan, "stone": math.nan}},
    {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": math.nan}},
    {"case": "c, d", "dice": {"liver": 0.8, "cyst": 0.0, "stone": math.nan}},
]


def full_cases():
    found = []
    for number in range(4):
        prediction, reference = (masks.label_map(number + n, (8, 8, 8), 4) for n in (0, 9))
        if number == 2:
            prediction[prediction == 1] = 0
        record = {"case": f"c{number}"} | scored(prediction, reference)
        found.append(record | surface_metrics(prediction, reference, NAMES, np.eye(4), 1.0))
    return found
