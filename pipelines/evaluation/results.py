"""The files that an evaluation writes: tables, JSON, an HTML report, and pictures of the worst cases."""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from pipelines.data.cases import CaseItem, reading
from pipelines.evaluation.curve_figure import draw_curves
from pipelines.evaluation.html_report import badness, write_report
from pipelines.metrics.pixels import PooledScores
from pipelines.metrics.result_files import results, write_csv, write_json, write_summary_csv
from pipelines.metrics.summary import CaseMetrics, Summary
from transforms.errors import ImageError
from transforms.hounsfield import not_hounsfield
from transforms.io.grids import turn_between
from transforms.io.header import Header
from transforms.io.readers import read_image
from transforms.utils.files import replacing
from transforms.visualization.overlay import draw_overlay

logger = logging.getLogger(__name__)

METRICS_CSV, SUMMARY_CSV, METRICS_JSON, REPORT = "metrics.csv", "summary.csv", "metrics.json", "report.html"
PICTURES, CURVES = "pictures", "curves.png"


class CasePictures:
    """Pictures of the prediction and the reference of the worst cases so far, as `<folder>/<case>.png`.

    Args:
        folder: folder for the pictures.
        names: class id to name.
        limit: maximum number of pictures; 0 draws none.
        ct: whether the images, or their first channels, are in HU; None looks at each.
        channels: of the images, where that is known: a file of four axes is only read where it is.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        names: Mapping[int, str],
        limit: int,
        ct: bool | None = True,
        channels: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.names = dict(names)
        self.limit = limit
        self.ct = ct
        self.channels = channels
        self._kept: list[tuple[tuple[float, tuple[int, ...]], str]] = []

    def add(
        self,
        record: CaseMetrics,
        image: CaseItem,
        prediction: MetaTensor,
        reference: MetaTensor,
    ) -> None:
        """Draw a case if it is among the worst; otherwise delete an earlier picture of it.

        Args:
            record: metrics of the case.
            image: the case whose image is read and drawn.
            prediction, reference: (1, ...) classes on one grid; its axes may be ordered differently from the image's.
        """
        path = self.path(record["case"])
        # heapq removes the smallest element, which must be the best case: Dice and name are therefore negated.
        dice, name = badness(record)
        place = (-dice, tuple(-ord(letter) for letter in name))
        if self.limit <= 0 or (len(self._kept) >= self.limit and self._kept[0][0] > place):
            path.unlink(missing_ok=True)
            return
        try:
            values = read_image(image["image"], channels=self.channels, **reading(image))
            picture = draw_overlay(
                values,
                _in_order_of(values, prediction),
                _in_order_of(values, reference),
                self.names,
                title=record["case"],
                dice=record["dice"],
                ct=_may_be_ct(values) if self.ct is None else self.ct,
            )
        except (ImageError, OSError) as error:  # a missing picture must not fail the evaluation
            logger.warning("no picture of case %s: %s", record["case"], error)
            path.unlink(missing_ok=True)
            return
        with replacing(path) as temporary:
            Image.fromarray(np.asarray(picture)).save(temporary, format="PNG", optimize=True)
        heapq.heappush(self._kept, (place, record["case"]))
        if len(self._kept) > self.limit:
            self.path(heapq.heappop(self._kept)[1]).unlink(missing_ok=True)

    def path(self, case: str) -> Path:
        return self.folder / f"{case}.png"

    def worst(self, cases: Sequence[CaseMetrics]) -> dict[str, Path]:
        """The pictures of the worst cases of all processes, case to path; all other pictures are deleted."""
        drawn = [c["case"] for c in sorted(cases, key=badness) if self.path(c["case"]).is_file()]
        for case in drawn[max(0, self.limit) :]:
            self.path(case).unlink()
        return {case: self.path(case) for case in drawn[: max(0, self.limit)]}


def _may_be_ct(image: MetaTensor) -> bool:
    return image.ndim == 4 and not not_hounsfield(image.as_tensor()[:1].numpy())


def write_results(
    folder: str | os.PathLike,
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str],
    summary: Summary,
    split: str,
    title: str,
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, Path] | None = None,
    pooled: Mapping[str, PooledScores] | None = None,
    histograms: torch.Tensor | None = None,
) -> Path:
    """Write metrics.csv, summary.csv, metrics.json and report.html; returns the path of the report.

    Where pixels were measured there is curves.png too, and otherwise none of an earlier evaluation.

    Args:
        cases, class_names, summary: see `pipelines.metrics.overlap`.
        split: name of the evaluated split.
        pooled, histograms: where pixels were measured, see `pipelines.metrics.pixels`.
        title, facts, pictures: content of the report, see `pipelines.evaluation.html_report.write_report`.
    """
    folder = Path(folder)
    write_csv(folder / METRICS_CSV, cases, class_names)
    write_summary_csv(folder / SUMMARY_CSV, summary)
    write_json(folder / METRICS_JSON, cases, class_names, summary, split, pooled)
    curves = folder / CURVES
    if pooled is None or histograms is None:
        curves.unlink(missing_ok=True)
    else:
        draw_curves(curves, histograms, pooled)
    found = results(cases, class_names, summary, split, pooled)
    write_report(folder / REPORT, found, title, facts, pictures, None if pooled is None else curves)
    return folder / REPORT


def _in_order_of(image: MetaTensor, classes: MetaTensor) -> MetaTensor:
    """Classes (1, ...) with the axes of the image's grid; returned unchanged if the voxels are not the same."""
    wanted, given = (Header(tuple(x.shape[1:]), 1, x.affine.cpu().numpy()) for x in (image, classes))
    turn = turn_between(given, wanted)
    if turn is None or turn.keeps:
        return classes
    turned = np.ascontiguousarray(turn.apply(classes.as_tensor().cpu().numpy()))
    return MetaTensor(torch.from_numpy(turned), affine=image.affine)
