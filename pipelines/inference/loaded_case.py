"""A case on its way into a prediction: read, prepared, and compared with what the model was trained on."""

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
        item: as the network gets it.
        series: the DICOM series that it was read from; None for any other image.
        image: as it was read, for the preview; None where none is wanted, so that its voxels need no memory.
        notices: what the reader noticed, and in what it is unlike the training's.
        seconds: how long all this took.
        unwritable: formats that cannot be written, and why.
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
        dataset: keeps originals.
        index: of the case in it.
        outputs: what will be written of it.
        training: what the model's card says of the cases that it was trained on; None compares nothing.

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
                logger.warning("%s is unlike what the model was trained on: %s", first_image(case), finding)
        lacking = unwritable(outputs, case, series)
        for reason in lacking.values():
            logger.warning(
                "%s: predicted all the same, what else was asked for is written", reason.rstrip(".")
            )
    kept = image if outputs.preview else None
    return LoadedCase(item, series, kept, notices, time.perf_counter() - started, lacking)
