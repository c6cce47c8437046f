"""clDice: how well the centre lines of thin structures, such as vessels and nerves, are found.

Dice is a matter of a vessel's wall, of which a thick vessel has most. The skeletons of both label maps count each
stretch of a vessel alike, so that a lost thin branch weighs as much as a lost thick one.

Source: Shit et al., clDice - a novel topology-preserving loss function for tubular structure segmentation, CVPR 2021
(arXiv 2003.07311), section 2: topology precision is the share of the prediction's skeleton that lies within the
reference, topology sensitivity the share of the reference's skeleton within the prediction, and clDice their harmonic
mean. The skeletons are those of scikit-image, which know voxels but no millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from transforms.errors import SettingError
from transforms.label_values import structure_masks, structures_of


class CenterlineScores(TypedDict, total=False):
    """The result of `centerline_metrics` for a case, by the names of the structures; an undefined value is NaN."""

    cldice: Mapping[str, float | None]


def centerline_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    class_names: Sequence[str],
    wanted: Sequence[str],
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
) -> CenterlineScores:
    """clDice of some structures of a case.

    Args:
        prediction, reference: classes, (X, Y, Z) or (X, Y), on one grid.
        class_names: of the classes 1, 2, ... in order.
        wanted: names of the classes or regions that are measured; all others are NaN.
        regions: name to the classes that make it up; if there are any, they are measured instead of the classes.
        ignore: value of the reference's voxels that count as background in both maps.

    Returns:
        0 to 1; 0 if only one of the maps holds the structure, and NaN if none does.

    Examples:
        >>> reference = np.zeros((20, 20), np.uint8)
        >>> reference[9:12, 2:18] = 1
        >>> centerline_metrics(reference, reference, ["vessel"], ["vessel"])
        {'cldice': {'vessel': 1.0}}
    """
    structures = structures_of(dict(enumerate(class_names, start=1)), regions)
    thin = {name: values for name, values in structures.items() if name in wanted}
    found: dict[str, float | None] = dict.fromkeys(structures, math.nan)
    for name, masks in structure_masks(prediction, reference, thin, ignore):
        if masks is not None:
            found[name] = cldice(*masks)
    return {"cldice": found}


def cldice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """clDice of two masks of one shape, 2D or 3D; 0 if one of them is empty, and NaN if both are."""
    # Imported here as it takes a third of a second.
    from skimage.morphology import skeletonize

    if not prediction.any() or not reference.any():
        return 0.0 if prediction.any() or reference.any() else math.nan
    lines, expected = skeletonize(prediction), skeletonize(reference)
    precision, sensitivity = float(reference[lines].mean()), float(prediction[expected].mean())
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def require_structures(wanted: Sequence[str] | str | None, structures: Sequence[str]) -> list[str]:
    """Check the names of structures whose centre lines are measured, and return them; one name, or None for none, too.

    Raises:
        SettingError: one is none of the model's.

    Examples:
        >>> require_structures(["vessel"], ["vessel", "lesion"])
        ['vessel']
    """
    wanted = [wanted] if isinstance(wanted, str) else list(wanted or ())
    unknown = [name for name in wanted if name not in structures]
    if unknown:
        raise SettingError(f"centerlines names '{unknown[0]}'; choose among {', '.join(structures)}")
    return wanted
