"""Evaluation of segmentations in files, made by any program; no model is needed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor

from pipelines.config.errors import problem
from pipelines.data.cases import first_image, reading
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.inputs import InputError, is_dataset
from pipelines.data.label_names import LabelNames
from pipelines.evaluation.pairs import Pair, Pairs, find_pairs, labels_of, numbered
from pipelines.evaluation.results import METRICS_CSV, PICTURES, CasePictures, write_results
from pipelines.metrics.centerlines import centerline_metrics, require_structures
from pipelines.metrics.overlap import SegmentationError, confusion_matrix, overlap_metrics
from pipelines.metrics.result_files import results
from pipelines.metrics.summary import CaseMetrics, summarise
from pipelines.metrics.summary import table as summary_table
from pipelines.metrics.surfaces import require_tolerance, surface_metrics
from pipelines.utils.anonymity import is_anonymous, without_places
from pipelines.utils.progress import Steps
from transforms.io.grids import grid_difference, turn_between
from transforms.io.header import Header
from transforms.io.readers import is_dicom_label, read_header, read_label
from transforms.label_values import counts_of, structures_of
from transforms.spatial.geometry import voxel_ml
from transforms.utils.files import require_folder

PICTURE_LIMIT = 32


def evaluate(
    predictions: str | Path,
    references: str | Path,
    output: str | Path | None = None,
    labels: str | Path | None = None,
    images: str | Path | None = None,
    tolerance: float = 2.0,
    as_json: bool = False,
    centerlines: Sequence[str] = (),
) -> bool:
    """Compare two segmentations, or two folders of them, and print and write the results.

    A case that fails does not stop the others; it is listed at the end.

    Args:
        output: folder for metrics.csv, summary.csv, metrics.json, report.html and, with images, pictures.
        labels: file with the names of the classes, see `pipelines.evaluation.pairs.labels_of`.
        images: the images, which define the grid of DICOM segmentations and are drawn in the pictures.
        tolerance: tolerance of the surface Dice in mm.
        as_json: print the results as JSON instead of a table.
        centerlines: names of the structures whose clDice is measured too.

    Returns:
        Whether every reference was compared.

    Raises:
        InputError: the paths do not lead to segmentations that can be compared.
        FolderError: `output` cannot be written to.
        SettingError: `centerlines` names a structure that there is not.
    """
    if output is not None:
        for given in (predictions, references):
            if os.path.realpath(output) == os.path.realpath(given):
                raise InputError(
                    f"the results would be written into the folder of segmentations {given}; choose another --output"
                )
    pairs = find_pairs(predictions, references, images)
    pairs = numbered(pairs) if is_anonymous() else pairs
    folders = [p if Path(p).is_dir() else Path(p).parent for p in (predictions, references)]
    names = _Classes.of(labels_of(pairs.found, labels, folders))
    require_tolerance(tolerance, list(names.structures))
    require_structures(centerlines, list(names.structures))
    if output is not None:
        require_folder(output, "the results", "choose another --output")
    drawn = CasePictures(
        Path(output or ".") / PICTURES,
        dict(enumerate(["background", *names.names])),
        PICTURE_LIMIT if output is not None and images is not None else 0,
        ct=None,
        channels=None if images is None else _stated_channels(Path(images)),
    )
    cases: list[CaseMetrics] = []
    failures: dict[str, str] = {}
    with Steps(len(pairs.found), "case") as steps:
        for pair in pairs.found:
            try:
                cases.append(compare(pair, names, tolerance, drawn, centerlines))
            except Exception as error:  # an error of one case must not stop the others
                failures[pair.case] = problem(error, pair.prediction)
            steps.step()
    class_names = list(names.structures)
    summary = summarise(cases, class_names, intervals=True)
    if output is not None and cases:
        facts = without_places({"predictions": str(predictions), "references": str(references)})
        facts["tolerance of the surface Dice"] = f"{tolerance:g} mm"
        facts |= {f"failed, {case}": reason for case, reason in failures.items()}
        if pairs.without_prediction:
            facts["references without a prediction"] = ", ".join(pairs.without_prediction)
        page = write_results(
            output, cases, class_names, summary, "given", "Evaluation", facts, drawn.worst(cases)
        )
    if as_json:
        found = results(cases, class_names, summary, "given") | {
            "failed": failures,
            "without_prediction": pairs.without_prediction,
            "without_reference": pairs.without_reference,
        }
        print(json.dumps(found, indent=2))
    elif cases:
        print(summary_table(summary))
        if output is not None:
            print(f"\nper case and class: {Path(output) / METRICS_CSV}\npage: {page}")
    _print_counts(pairs, cases, failures)
    return not failures and not pairs.without_prediction


class _Classes(NamedTuple):
    """What is compared: the values of label maps as numbers from 1 in rising order; 0 is the background.

    Attributes:
        values, names: of the classes, in the order of their numbers.
        regions: name to the numbers of the classes that make it up; empty where classes are all there is.
        structures: the regions, or each class for itself.
        ignore: value of voxels that nobody has annotated; None where there is none.
        segments: value to the name of its DICOM segment.
    """

    values: list[int]
    names: list[str]
    regions: dict[str, tuple[int, ...]]
    structures: dict[str, tuple[int, ...]]
    ignore: int | None
    segments: dict[int, str]

    @classmethod
    def of(cls, found: LabelNames) -> _Classes:
        named = {value: name for value, name in found.labels.items() if value != 0}
        numbers = {value: number for number, value in enumerate(named, start=1)}
        regions = {name: tuple(numbers[value] for value in values) for name, values in found.regions.items()}
        structures = structures_of(dict(enumerate(named.values(), start=1)), regions)
        return cls(list(named), list(named.values()), regions, structures, found.ignore, found.segments)

    @property
    def ignored(self) -> int | None:
        """Number of the voxels that nobody has annotated."""
        return None if self.ignore is None else len(self.values) + 1

    def numbered(self, path: Path, labels: MetaTensor, ignored: bool = False) -> np.ndarray:
        """Numbers (*shape) of the classes in a label map.

        Args:
            ignored: whether it may hold the value of voxels that nobody has annotated.

        Raises:
            SegmentationError: it holds a value without a name.
        """
        array = labels.as_tensor().cpu().numpy()[0]
        found = counts_of(array)
        known = [*self.values, *([self.ignore] if ignored and self.ignore is not None else [])]
        unknown = [value for value in found if value != 0 and value not in known]
        if unknown:
            listed = ", ".join(map(str, unknown[:5]))
            named = ", ".join(f"{value} {name}" for value, name in zip(self.values, self.names, strict=True))
            raise SegmentationError(
                f"{path} has the value(s) {listed}, which belong to no class ({named}); name all classes with --labels"
            )
        index = np.zeros(max(found, default=0) + 1, np.uint8 if len(known) < 256 else np.uint16)
        for number, value in enumerate(known, start=1):
            if value < len(index):
                index[value] = number
        return index[array]


def compare(
    pair: Pair,
    names: _Classes,
    tolerance: float,
    pictures: CasePictures | None = None,
    centerlines: Sequence[str] = (),
) -> CaseMetrics:
    """The metrics of one case.

    Args:
        names: meaning of the values in the label maps.
        pictures: draws the case if it has an image.
        centerlines: names of the structures whose clDice is measured too.

    Raises:
        SegmentationError: the two grids differ, or a label map has a value without a name.
        ImageError: a file cannot be read.
    """
    prediction, reference = _read(pair, names)
    prediction = _on_grid(pair, prediction, reference)
    classes = [
        names.numbered(pair.prediction, prediction),
        names.numbered(pair.reference, reference, ignored=True),
    ]
    affine = reference.affine.cpu().numpy()
    counted = [torch.from_numpy(x) for x in classes]
    confusion = confusion_matrix(counted[0], counted[1], len(names.names) + 1, names.ignored)
    ml = voxel_ml(affine, classes[0].ndim)
    regions, ignored = names.regions, names.ignored
    record: CaseMetrics = {
        "case": pair.case,
        **overlap_metrics(confusion, names.names, ml, regions),
        **surface_metrics(classes[0], classes[1], names.names, affine, tolerance, regions, ignored),
    }
    if centerlines:
        record |= centerline_metrics(classes[0], classes[1], names.names, centerlines, regions, ignored)
    if pictures is not None and pair.image is not None:
        if ignored is not None:
            classes[1][classes[1] == ignored] = 0
        maps = [MetaTensor(torch.from_numpy(x)[None], affine=reference.affine) for x in classes]
        pictures.add(record, pair.image, *maps)
    return record


def _stated_channels(images: Path) -> int | None:
    return load_dataset(images, check=False, validation_fraction=0).channels if is_dataset(images) else None


def _read(pair: Pair, names: _Classes) -> list[MetaTensor]:
    """Prediction and reference; DICOM ones are put on the grid of the image, or of the other file if there is none."""
    paths = (pair.prediction, pair.reference)
    dicom = [is_dicom_label(path) for path in paths]
    found: dict[int, MetaTensor] = {i: read_label(p) for i, p in enumerate(paths) if not dicom[i]}
    if any(dicom):
        image = None if pair.image is None else first_image(pair.image)
        if pair.image is not None:
            grid = read_header(pair.image["image"], **reading(pair.image))
        elif found:
            other = next(iter(found.values()))
            grid = _grid(other)
        else:
            raise SegmentationError(
                f"{pair.prediction} and {pair.reference} are both DICOM segmentations, which do not define a voxel grid;"
                " give the CT with --images"
            )
        from_dicom = image if image is not None and Path(image).is_dir() else None
        labels = {0: "background", **names.segments}
        for index, path in enumerate(paths):
            if dicom[index]:
                found[index] = read_label(path, grid, labels, image=from_dicom)
    return [found[0], found[1]]


def _on_grid(pair: Pair, prediction: MetaTensor, reference: MetaTensor) -> MetaTensor:
    """The prediction on the reference's grid; only the order and directions of the axes may differ before."""
    wanted, given = (_grid(x) for x in (reference, prediction))
    turn = turn_between(given, wanted)
    if turn is None:
        raise SegmentationError(
            f"{pair.prediction} does not lie on the grid of {pair.reference}: {grid_difference(wanted, given)}; resample"
            " the prediction to the reference's grid with nearest neighbour, or give the prediction for the same image"
        )
    if turn.keeps:
        return prediction
    turned = np.ascontiguousarray(turn.apply(prediction.as_tensor().cpu().numpy()))
    return MetaTensor(torch.from_numpy(turned), affine=reference.affine)


def _grid(labels: MetaTensor) -> Header:
    return Header(tuple(labels.shape[1:]), 1, labels.affine.cpu().numpy())


def _print_counts(pairs: Pairs, cases: Sequence[Any], failures: Mapping[str, str]) -> None:
    total = len(pairs.found) + len(pairs.without_prediction)
    print(f"{len(cases)} of {total} cases evaluated", file=sys.stderr)
    if pairs.without_reference:
        print(f"without a reference, not evaluated: {', '.join(pairs.without_reference)}", file=sys.stderr)
    if pairs.without_prediction:
        print(f"without a prediction: {', '.join(pairs.without_prediction)}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed:", file=sys.stderr)
        for case, reason in failures.items():
            print(f"  {case}: {reason}", file=sys.stderr)
