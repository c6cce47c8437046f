"""Pictures of a validation, drawn from the same predictions as its metrics."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from PIL import Image

from pipelines.distributed.collectives import of_all_ranks
from pipelines.inference.evaluator import annotated
from pipelines.metrics.summary import CaseMetrics
from transforms.preprocess import PreparedCase, Preprocess
from transforms.spatial.geometry import Geometry
from transforms.visualization.overlay import draw_overlay, overlay_place

logger = logging.getLogger(__name__)


class Snapshots:
    """Draws prediction and reference of selected cases while an evaluator runs.

    The image is the preprocessed input of the network, interpolated to three planes of the file's grid, so that no
    file is read again. Its HU are restored within the intensity window of the preprocessing.

    Args:
        cases: ids of the cases to draw.
        labels: names of the classes by class id.
        preprocess: preprocessing of the images.
    """

    def __init__(self, cases: Sequence[str], labels: Mapping[int, str], preprocess: Preprocess) -> None:
        self.cases = frozenset(cases)
        self.labels = dict(labels)
        self.preprocess = preprocess
        self._places: dict[str, tuple[int, ...] | None] = {}
        self._pictures: dict[str, bytes] = {}

    def attach(self, evaluator: Engine) -> None:
        evaluator.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        item: Any = engine.state.batch
        case = str(item["case"])
        if case not in self.cases or "label" not in item:
            return
        try:
            picture = self._drawn(case, item, engine.state.output[Keys.PRED], engine.state.cases[-1])  # type: ignore[index, attr-defined]
        except Exception as error:
            # A failed picture must not end a training of hours.
            logger.warning("no picture of case %s: %s: %s", case, type(error).__name__, error)
            return
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, format="PNG", compress_level=3)
        self._pictures[case] = stream.getvalue()

    def take(self) -> dict[str, bytes]:
        """The pictures of all ranks since the last call, as PNG by case id; to be called on every rank."""
        pictures, self._pictures = self._pictures, {}
        return dict(sorted(item for part in of_all_ranks(pictures) for item in part.items()))

    def _drawn(
        self, case: str, item: PreparedCase, prediction: MetaTensor, scores: CaseMetrics
    ) -> np.ndarray:
        geometry, reference = Geometry.from_dict(item["geometry"]), annotated(item)
        if case not in self._places:
            # The planes depend only on the reference, which never changes.
            place = overlay_place(reference)
            if place is not None:
                self._places[case] = place
        values = self.preprocess.hounsfield(torch.as_tensor(item["image"])[0])
        return draw_overlay(
            MetaTensor(values, affine=torch.as_tensor(geometry.prepared_affine)),
            prediction,
            reference,
            self.labels,
            title=case,
            dice=scores["dice"],
            ct=self.preprocess.shows_ct,
            place=self._places.get(case),
        )


def decoded(picture: bytes) -> np.ndarray:
    """The pixels (height, width, 3) uint8 of a PNG."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
