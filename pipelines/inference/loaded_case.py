"""Reads and prepares a case for prediction, and compares it with the training data of the model."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple, cast

from monai.data import MetaTensor

from pipelines.data.cases import first_image
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.case_files import OutputPlan, unwritable
from pipelines.inference.training_data import TrainingData
from pipelines.inference.unlike import unlike_training
from pipelines.utils.logs import warnings_of
from transforms.dicom.series import Series
from transforms.preprocess import PreparedCase
from transforms.spatial.geometry import Geometry

__all__ = ["LoadedCase", "load_case"]

logger = logging.getLogger(__name__)


class LoadedCase(NamedTuple):
    """A case that is ready to be predicted.

    Attributes:
        item: the prepared input of the network.
        series: the DICOM series of the image; None if the image is not DICOM.
        image: the original image for the preview; None without a preview, to save memory.
        notices: warnings while the image was read, and differences from the training data.
        seconds: duration of reading and preparing.
        unwritable: formats that cannot be written, with the reasons.
    """

    item: PreparedCase
    series: Series | None
    image: MetaTensor | None
    notices: list[str]
    seconds: float
    unwritable: dict[str, str]


def load_case(
    dataset: VolumeDataset, index: int, outputs: OutputPlan, training: TrainingData | None = None
) -> LoadedCase:
    """Read and prepare a case.

    Args:
        dataset: with `keep_originals` set.
        index: index of the case in the dataset.
        outputs: the requested files.
        training: summary of the model's training cases; None compares nothing.

    Raises:
        ImageError: the image cannot be read.
    """
    started = time.perf_counter()
    case = dataset.data[index]
    with warnings_of("transforms", "pipelines") as notices:
        item = cast(PreparedCase, dataset[index])
        image, series = item.pop("original")
        if training is not None:
            geometry = Geometry.from_dict(item["geometry"])
            # Nothing but CT is read from DICOM.
            for finding in unlike_training(image.numpy(), geometry, training, ct=series is not None):
                logger.warning(
                    "%s differs from the training data of the model: %s", first_image(case), finding
                )
        lacking = unwritable(outputs, case, series)
        for reason in lacking.values():
            logger.warning("%s; all other requested files of the case are written", reason.rstrip("."))
    kept = image if outputs.preview else None
    return LoadedCase(item, series, kept, notices, time.perf_counter() - started, lacking)
