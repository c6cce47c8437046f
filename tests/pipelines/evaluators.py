"""Evaluators whose network knows every answer."""

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from tests.pipelines.small import NAMES, Oracle
from transforms.preprocess import Preprocess


def evaluator(data, preprocess=None, classes=3, roi_size=(8, 8, 8), **options):
    preprocess = preprocess or Preprocess()
    return SegEvaluator(
        "cpu",
        volume_loader(VolumeDataset(data, preprocess)),
        Oracle(classes),
        preprocess,
        [NAMES[value] for value in range(1, classes)],
        SlidingWindow(roi_size),
        **options,
    )
