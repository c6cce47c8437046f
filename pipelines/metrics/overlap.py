"""Overlap metrics of a case per class, computed from its confusion matrix; docs/evaluation.md defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch

from transforms.errors import FAILED, UserError
from transforms.label_values import structures_of

FORMAT = 1
_BLOCK = 1 << 20


class OverlapScores(TypedDict, total=False):
    """The result of `overlap_metrics` for a case, by class name.

    An undefined value is NaN; if read from JSON, which has no NaN, it is None.
    """

    dice: Mapping[str, float | None]
    iou: Mapping[str, float | None]
    sensitivity: Mapping[str, float | None]
    precision: Mapping[str, float | None]
    volume_error_ml: Mapping[str, float | None]
    reference_voxels: Mapping[str, int]
    prediction_voxels: Mapping[str, int]


class SegmentationError(UserError, ValueError):
    """The segmentation of a case cannot be compared with its reference."""

    exit_status = FAILED


def confusion_matrix(
    prediction: torch.Tensor, reference: torch.Tensor, num_classes: int, ignore: int | None = None
) -> torch.Tensor:
    """Voxel counts int64 (num_classes, num_classes): row = reference class, column = predicted class.

    Args:
        prediction, reference: classes, of one shape.
        num_classes: background included.
        ignore: value of the reference's voxels that are not counted, whatever is predicted there.

    Raises:
        SegmentationError: the shapes differ, or a value is outside of 0..num_classes-1.

    Examples:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), num_classes=2)
        tensor([[1, 1],
                [0, 2]])
    """
    if prediction.shape != reference.shape:
        raise SegmentationError(
            f"the shapes of prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    rows, columns = (
        torch.as_tensor(x).as_subclass(torch.Tensor).reshape(-1) for x in (reference, prediction)
    )
    if ignore is not None:
        counts = rows != ignore
        rows, columns = rows[counts], columns[counts]
    for values in (rows, columns):
        # torch has no max() of uint16, the type of label maps with more than 256 classes.
        values = values if values.dtype != torch.uint16 else values.to(torch.int32)
        if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < num_classes):
            raise SegmentationError(
                f"a label map holds classes {int(values.min())} to {int(values.max())}; they must be in the range "
                f"0 to {num_classes - 1}"
            )
    # Each pair of classes is encoded as one number of the smallest sufficient type, block by block, so that the data
    # stay in the processor's cache (40 times faster than int64 over the whole volume, with 15 classes).
    pairs = num_classes**2
    kind = next(
        t for t in (torch.uint8, torch.int16, torch.int32, torch.int64) if pairs - 1 <= torch.iinfo(t).max
    )
    counts = torch.zeros(pairs, dtype=torch.int64, device=rows.device)
    for start in range(0, rows.numel(), _BLOCK):
        pair = rows[start : start + _BLOCK].to(kind) * num_classes + columns[start : start + _BLOCK].to(kind)
        counts += torch.bincount(pair, minlength=pairs)
    return counts.reshape(num_classes, num_classes)


def case_dice(prediction: torch.Tensor, reference: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Dice coefficient 2|A and B| / (|A| + |B|) of every class, shape (num_classes,), float64.

    NaN for a class that neither map holds. Dice, Ecology 26(3), 1945.

    Examples:
        >>> case_dice(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), num_classes=3)
        tensor([0.6667, 0.8000,    nan], dtype=torch.float64)
    """
    counts = confusion_matrix(torch.as_tensor(prediction), torch.as_tensor(reference), num_classes).double()
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


class StructureCounts(NamedTuple):
    """The voxels of every structure, float64 (structures,).

    Attributes:
        names: of the structures.
        hit: predicted where it is.
        reference: where it is.
        predicted: where it is predicted.
        total: all voxels that count, a number.
    """

    names: list[str]
    hit: torch.Tensor
    reference: torch.Tensor
    predicted: torch.Tensor
    total: float


def structure_counts(
    confusion: torch.Tensor, class_names: Sequence[str], regions: Mapping[str, Sequence[int]] | None = None
) -> StructureCounts:
    """The voxels of every foreground class, or of every region, from a confusion matrix; see `overlap_metrics`."""
    structures = structures_of(dict(enumerate(class_names, start=1)), regions)
    counts = confusion.double().cpu()
    members = torch.zeros(len(structures), len(counts), dtype=counts.dtype)
    for row, values in enumerate(structures.values()):
        members[row, list(values)] = 1
    # Whole numbers below 2**53: exact in any order.
    hit = ((members @ counts) * members).sum(1)
    return StructureCounts(
        list(structures), hit, members @ counts.sum(1), members @ counts.sum(0), float(counts.sum())
    )


def overlap_metrics(
    confusion: torch.Tensor,
    class_names: Sequence[str],
    voxel_ml: float | None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> OverlapScores:
    """Overlap of every foreground class of one case, or of every region, from its confusion matrix.

    With TP, FP and FN counted in voxels: dice 2TP / (2TP + FP + FN), iou TP / (TP + FP + FN), sensitivity
    TP / (TP + FN), precision TP / (TP + FP), and volume_error_ml, the volume of the prediction minus that of the
    reference. A ratio 0 / 0 is NaN, and so is the volume error of a structure that neither map holds.

    Args:
        confusion: see `confusion_matrix`; class 0 is the background.
        class_names: names of the classes 1, 2, ... in order.
        voxel_ml: volume of a voxel in ml; with None (a 2D picture) the volume error is NaN.
        regions: name to the classes that make it up; if there are any, they are measured instead of the classes.

    Returns:
        All of `OverlapScores`.

    Examples:
        >>> found = overlap_metrics(torch.tensor([[90, 2], [1, 7]]), ["lesion"], voxel_ml=0.5)
        >>> found["sensitivity"], found["volume_error_ml"]
        ({'lesion': 0.875}, {'lesion': 0.5})
    """

    def of_classes(values: torch.Tensor) -> dict[str, float]:
        return dict(zip(structures, values.tolist(), strict=True))

    def in_voxels(values: torch.Tensor) -> dict[str, int]:
        return dict(zip(structures, (int(n) for n in values), strict=True))

    structures, hit, reference, predicted, _ = structure_counts(confusion, class_names, regions)
    error = (predicted - reference) * (math.nan if voxel_ml is None else voxel_ml)
    return {
        "dice": of_classes(2 * hit / (reference + predicted)),
        "iou": of_classes(hit / (reference + predicted - hit)),
        "sensitivity": of_classes(hit / reference),
        "precision": of_classes(hit / predicted),
        "volume_error_ml": of_classes(torch.where(reference + predicted > 0, error, math.nan)),
        "reference_voxels": in_voxels(reference),
        "prediction_voxels": in_voxels(predicted),
    }
