"""Which post-processing helps: tried on label maps that were predicted for cases with a reference.

As nnU-Net chooses it (F. Isensee et al., Nature Methods 18, 2021, online methods): first whether only the largest piece
of all classes together should stay, then class by class whether only its largest piece should. Closing holes is tried in
the same way. A choice has to raise the mean Dice and may lower that of no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data import MetaTensor

from pipelines.inference.postprocess import ALL, Postprocess, parameters
from pipelines.metrics.overlap import confusion_matrix, overlap_metrics
from pipelines.utils.progress import Steps
from transforms.io.readers import read_label
from transforms.label_values import structures_of

_LEAST = 1e-4
"""Gain in mean Dice below which a choice is left out: it would be luck."""


class Choice(NamedTuple):
    """What helps, and what it was measured by.

    Attributes:
        postprocessing: arguments of `Postprocess`; empty where nothing helps.
        before, after: mean Dice per class or region over the cases; one that is absent in both maps counts as 1.
    """

    postprocessing: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]


def choose_postprocessing(
    pairs: Sequence[tuple[Path, Path]],
    labels: Mapping[int, str],
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
) -> Choice:
    """Try post-processing on predictions and keep what helps.

    With regions only all classes together are tried, since a piece of a class may be the middle of a region.

    Args:
        pairs: files of the prediction and of the reference of each case, on one grid.
        labels: class id to name, the background included.
        regions: name to the classes that make it up; where there are any, their Dice counts instead of the classes'.
        ignore: value of voxels of a reference that count nowhere.

    Raises:
        ImageError: a file cannot be read.
        SegmentationError: the two maps of a case differ in shape.
    """
    measured = _Measured(pairs, labels, regions or {}, ignore)
    names = list(structures_of(labels, regions))
    nothing, whole = Postprocess(), Postprocess(largest_foreground=True)
    plain, foreground = measured.dice([nothing, whole], "foreground")
    chosen: dict[str, Any] = {}
    if _helps(plain, foreground):
        chosen["largest_foreground"] = True
    # Components and holes of one class do not depend on what is done to the others.
    for kind in () if regions else ("largest_component", "fill_holes"):
        options = [Postprocess(**chosen), Postprocess(**{**chosen, kind: [ALL]})]
        without, with_all = measured.dice(options, kind.replace("_", " "))
        better = [
            name for name, gain in zip(names, (with_all - without).tolist(), strict=True) if gain > _LEAST
        ]
        if better:
            chosen[kind] = better
    postprocess = Postprocess(**chosen)
    (after,) = (plain,) if postprocess.off else measured.dice([postprocess], "the choice")
    return Choice(
        {name: value for name, value in parameters(postprocess).items() if value},
        dict(zip(names, plain.tolist(), strict=True)),
        dict(zip(names, after.tolist(), strict=True)),
    )


def _helps(before: np.ndarray, after: np.ndarray) -> bool:
    return bool((after >= before).all() and after.mean() - before.mean() > _LEAST)


class _Measured(NamedTuple):
    """The cases, and what is measured in them, see `choose_postprocessing`."""

    pairs: Sequence[tuple[Path, Path]]
    labels: Mapping[int, str]
    regions: Mapping[str, Sequence[int]]
    ignore: int | None

    def dice(self, options: Sequence[Postprocess], what: str) -> list[np.ndarray]:
        """Mean Dice (classes or regions) of every option."""
        names = [name for value, name in sorted(self.labels.items()) if value != 0]
        totals = np.zeros((len(options), len(structures_of(self.labels, self.regions))))
        with Steps(len(self.pairs), "case", f"trying post-processing ({what})") as steps:
            for predicted, reference in self.pairs:
                prediction, truth = read_label(predicted), read_label(reference)
                for index, option in enumerate(options):
                    cleaned: MetaTensor = option(prediction, self.labels)
                    maps = cleaned.as_tensor(), truth.as_tensor()
                    confusion = confusion_matrix(*maps, len(self.labels), self.ignore)
                    found = overlap_metrics(confusion, names, None, self.regions)["dice"]
                    totals[index] += np.nan_to_num(np.array([*found.values()], float), nan=1.0)
                steps.step()
        return list(totals / max(1, len(self.pairs)))
