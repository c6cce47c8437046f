"""What is done to a label map after the network: largest component, holes, small pieces. All off by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from pipelines.inputs import named
from pipelines.volumes import voxel_ml
from transforms.values import bounding_boxes

ALL = "all"


class PostprocessError(ValueError):
    """Post-processing was asked for a class that the model does not have, or for an impossible volume."""


class Postprocess:
    """Cleans a label map class by class.

    First every class loses its components below the smallest volume and, where asked for, all but its largest
    component; what is removed becomes background. Then holes are filled: background that a class encloses in
    3D becomes that class. No class ever takes a voxel of another class. Doing it twice changes nothing more.

    Components are joined by faces, edges or corners; holes are closed against faces (the dual choice).

    Args:
        largest_component: class names that keep only their largest component; "all" for every class.
        fill_holes: class names whose holes are filled; "all" for every class.
        min_volume_ml: class name (or "all") to the smallest volume of a component in ml; one number for every
            class.
    """

    def __init__(
        self,
        largest_component: Sequence[str] | str = (),
        fill_holes: Sequence[str] | str = (),
        min_volume_ml: Mapping[str, float] | float | None = None,
    ) -> None:
        self.largest_component = named(largest_component)
        self.fill_holes = named(fill_holes)
        if min_volume_ml is None:
            min_volume_ml = {}
        elif not isinstance(min_volume_ml, Mapping):
            min_volume_ml = {ALL: min_volume_ml}
        try:
            self.min_volume_ml = {
                str(name): float(ml) for name, ml in min_volume_ml.items() if ml is not None
            }
        except (TypeError, ValueError) as error:
            raise PostprocessError(f"min_volume_ml is {min_volume_ml}; give numbers in ml") from error
        wrong = [ml for ml in self.min_volume_ml.values() if not 0 <= ml < float("inf")]
        if wrong:
            raise PostprocessError(f"min_volume_ml is {wrong[0]}; a volume is a number of ml from 0 up")

    @property
    def off(self) -> bool:
        """Nothing is asked for."""
        return not (self.largest_component or self.fill_holes or any(self.min_volume_ml.values()))

    def require_names(self, names: Mapping[int, str]) -> None:
        """Raise PostprocessError unless all classes that are named here are foreground classes of the model."""
        known = [name for value, name in sorted(names.items()) if value != 0]
        for name in (*self.largest_component, *self.fill_holes, *self.min_volume_ml):
            if name != ALL and name not in known:
                raise PostprocessError(
                    f"post-processing names the class '{name}', which the model does not have; its classes are "
                    + ", ".join(known)
                )

    def __call__(self, labels: MetaTensor, names: Mapping[int, str]) -> MetaTensor:
        """The cleaned label map, (1, *shape) of the same type; the given one where nothing is asked for.

        Raises:
            PostprocessError: see `require_names`; or volumes were asked for a 2D picture.
        """
        if self.off:
            return labels
        self.require_names(names)
        array = labels.as_tensor().cpu().numpy()[0].copy()
        unit = voxel_ml(labels.affine.cpu(), array.ndim)
        if unit is None and any(self.min_volume_ml.values()):
            raise PostprocessError("a 2D picture has no volume, so min_volume_ml cannot be used on it")
        present = {value: box for value, box in bounding_boxes(array).items() if value in names}
        for value, box in present.items():
            smallest = self.min_volume_ml.get(names[value], self.min_volume_ml.get(ALL, 0.0))
            largest = _asked(names[value], self.largest_component)
            if smallest > 0 or largest:
                _keep_components(array[box], value, smallest / unit if unit else 0.0, largest)
        for value, box in present.items():
            if _asked(names[value], self.fill_holes):
                _fill(array[box], value)
        return MetaTensor(torch.from_numpy(array)[None], affine=labels.affine)


def _asked(name: str, names: Sequence[str]) -> bool:
    return name in names or ALL in names


def _keep_components(part: np.ndarray, value: int, smallest: float, largest: bool) -> None:
    """Set components of `value` below `smallest` voxels (and all but the largest) to background, in place."""
    mask = part == value
    components, count = ndimage.label(mask, np.ones((3,) * part.ndim))
    if count == 0:
        return
    sizes = np.bincount(components.reshape(-1))
    sizes[0] = 0
    # A component of just the smallest volume stays, whatever the rounding of its voxels' volume.
    keep = sizes >= smallest * (1 - 1e-9)
    keep[0] = False
    if largest:
        first = int(sizes.argmax())
        keep &= np.arange(len(keep)) == first
    part[mask & ~keep[components]] = 0


def _fill(part: np.ndarray, value: int) -> None:
    """Set background that `value` encloses to `value`, in place.

    The bounding box is enough: whatever reaches its border is not enclosed.
    """
    mask = part == value
    part[ndimage.binary_fill_holes(mask) & (part == 0)] = value


def parameters(postprocess: Postprocess | None) -> dict[str, Any]:
    """Everything that changes a result, as plain JSON types; empty when off."""
    if postprocess is None or postprocess.off:
        return {}
    return {
        "largest_component": postprocess.largest_component,
        "fill_holes": postprocess.fill_holes,
        "min_volume_ml": postprocess.min_volume_ml,
    }
