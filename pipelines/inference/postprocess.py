"""Postprocessing of label maps: largest component, holes, small components. All of it is off by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import sparse
from skimage.measure import label

from pipelines.data.inputs import named
from transforms.errors import SettingError
from transforms.label_values import bounding_boxes
from transforms.spatial.geometry import voxel_ml

ALL = "all"


class PostprocessError(SettingError):
    """Postprocessing is requested for a class that the model does not have, or with an invalid volume."""


class Postprocess:
    """Postprocesses a label map class by class.

    First, if requested, only the largest component of all classes taken together is kept. Then, in the selected
    classes, components below the smallest volume, or all but the largest component, become background. Then holes are
    filled: background that is enclosed by a class in 3D becomes that class. A voxel of one class never becomes another
    class. A second application changes nothing.

    Voxels of a component are connected by faces, edges or corners, and voxels of the background by faces only.

    Args:
        largest_component: names of the classes of which only the largest component is kept; "all" for every class.
            None, here and for the other arguments, takes what `chosen` has.
        fill_holes: names of the classes whose holes are filled; "all" for every class.
        min_volume_ml: smallest volume of a component in ml by class name (or "all"), or one number for every class.
        largest_foreground: whether to keep only the largest component of all classes taken together.
        chosen: arguments of this class by name, as a cross-validation chose them; used where none is given.

    Examples:
        >>> labels = MetaTensor(torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 1]]], dtype=torch.uint8))
        >>> Postprocess(largest_component=["liver"])(labels, {0: "background", 1: "liver"}).tolist()
        [[[1, 1, 0, 0], [1, 1, 0, 0]]]
    """

    def __init__(
        self,
        largest_component: Sequence[str] | str | None = None,
        fill_holes: Sequence[str] | str | None = None,
        min_volume_ml: Mapping[str, float] | float | None = None,
        largest_foreground: bool | None = None,
        chosen: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = chosen or {}
        self.largest_component = named(_given(largest_component, chosen.get("largest_component"), ()))
        self.fill_holes = named(_given(fill_holes, chosen.get("fill_holes"), ()))
        self.largest_foreground = bool(_given(largest_foreground, chosen.get("largest_foreground"), False))
        min_volume_ml = _given(min_volume_ml, chosen.get("min_volume_ml"), None)
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
            raise PostprocessError(f"min_volume_ml is {wrong[0]}; give a volume in ml, 0 or more")

    @property
    def off(self) -> bool:
        """Whether no postprocessing is requested."""
        return not (
            self.largest_foreground
            or self.largest_component
            or self.fill_holes
            or any(self.min_volume_ml.values())
        )

    def require_names(self, names: Mapping[int, str]) -> None:
        """Raise PostprocessError unless all selected classes are foreground classes of the model."""
        known = [name for value, name in sorted(names.items()) if value != 0]
        for name in (*self.largest_component, *self.fill_holes, *self.min_volume_ml):
            if name != ALL and name not in known:
                raise PostprocessError(
                    f"postprocessing names the class '{name}', which the model does not have; its classes are "
                    + ", ".join(known)
                )

    def __call__(self, labels: MetaTensor, names: Mapping[int, str]) -> MetaTensor:
        """The postprocessed label map, (1, *shape) of the same type; `labels` itself if nothing is requested.

        Raises:
            PostprocessError: see `require_names`; or a smallest volume is requested for a 2D image.
        """
        if self.off:
            return labels
        self.require_names(names)
        array = labels.as_tensor().cpu().numpy()[0].copy(order="K")
        unit = voxel_ml(labels.affine.cpu(), array.ndim)
        if unit is None and any(self.min_volume_ml.values()):
            raise PostprocessError("a 2D image has no volume; leave out min_volume_ml for 2D images")
        boxes = bounding_boxes(array)
        if boxes:
            # Only the box around all classes is processed: background that reaches its border is not enclosed.
            whole = tuple(
                slice(
                    min(box[axis].start for box in boxes.values()),
                    max(box[axis].stop for box in boxes.values()),
                )
                for axis in range(array.ndim)
            )
            # Axes in the order of memory, which makes labelling several times faster.
            part = array[whole].transpose(np.argsort(np.negative(array.strides), kind="stable"))
            if self.largest_foreground:
                _keep_largest(part)
            if self.largest_component or any(self.min_volume_ml.values()):
                self._keep_components(part, names, unit)
            if self.fill_holes:
                filled = [
                    value for value in boxes if value in names and _asked(names[value], self.fill_holes)
                ]
                _fill_holes(part, filled)
        return MetaTensor(torch.from_numpy(array)[None], affine=labels.affine)

    def _keep_components(self, part: np.ndarray, names: Mapping[int, str], unit: float | None) -> None:
        """Set components below their class's volume, and all but the largest, to background, in place."""
        components = label(part, background=0, connectivity=part.ndim)
        sizes = np.bincount(components.reshape(-1))
        classes = _class_of(components, part, len(sizes))
        keep = np.ones(len(sizes), bool)
        for value in np.unique(classes[1:]).tolist():
            own = np.flatnonzero(classes == value)
            name = names.get(value, "")
            smallest = self.min_volume_ml.get(name, self.min_volume_ml.get(ALL, 0.0))
            if name and unit and smallest > 0:
                # The tolerance keeps a component of exactly the smallest volume despite rounding.
                keep[own] = sizes[own] >= smallest / unit * (1 - 1e-9)
            if name and _asked(name, self.largest_component):
                largest = own[sizes[own].argmax()]
                keep[own] &= own == largest
        keep[0] = True
        part[~keep[components]] = 0


def _given(value: Any, chosen: Any, otherwise: Any) -> Any:
    return value if value is not None else chosen if chosen is not None else otherwise


def _keep_largest(part: np.ndarray) -> None:
    """Set all foreground but its largest component to background, in place."""
    components = label(part > 0, background=0, connectivity=part.ndim)
    sizes = np.bincount(components.reshape(-1))
    if len(sizes) > 2:
        part[components != 1 + sizes[1:].argmax()] = 0


def _asked(name: str, names: Sequence[str]) -> bool:
    return name in names or ALL in names


def _class_of(components: np.ndarray, part: np.ndarray, count: int) -> np.ndarray:
    classes = np.zeros(count, part.dtype)
    classes[components.reshape(-1)] = part.reshape(-1)
    return classes


def _fill_holes(part: np.ndarray, values: Sequence[int]) -> None:
    """Set background that is enclosed by a class to this class, for each class of `values` in turn, in place.

    A single pass labels all connected regions of equal value. A class encloses the regions that have no path to the
    outside in the graph of neighbouring regions once the class is removed from the graph.
    """
    regions = label(part, background=-1, connectivity=1)
    count = int(regions.max()) + 1
    classes = _class_of(regions, part, count)
    outside = 0  # no region has this number
    pairs = [np.unique(regions[_face(part.ndim, axis, end)]) for axis in range(part.ndim) for end in (0, -1)]
    edges = {(outside, int(region)) for face in pairs for region in face}
    for axis in range(part.ndim):
        first, second = (
            regions[_face(part.ndim, axis, slice(None, -1))],
            regions[_face(part.ndim, axis, slice(1, None))],
        )
        differ = first != second
        codes = np.unique(first[differ].astype(np.int64) * count + second[differ])
        edges.update(zip((codes // count).tolist(), (codes % count).tolist(), strict=True))
    one, other = np.array(sorted(edges)).T
    for value in values:
        open_ = (classes[one] != value) | (one == outside)
        open_ &= classes[other] != value
        graph = sparse.coo_array((np.ones(open_.sum(), bool), (one[open_], other[open_])), (count, count))
        _, group = sparse.csgraph.connected_components(graph, directed=False)
        classes[(classes == 0) & (group != group[outside])] = value
    part[...] = classes[regions]


def _face(dims: int, axis: int, at: int | slice) -> tuple[int | slice, ...]:
    return tuple(at if a == axis else slice(None) for a in range(dims))


def parameters(postprocess: Postprocess | None) -> dict[str, Any]:
    """All settings that change a result, as plain JSON types; empty if nothing is requested."""
    if postprocess is None or postprocess.off:
        return {}
    found: dict[str, Any] = {"largest_foreground": True} if postprocess.largest_foreground else {}
    return found | {
        "largest_component": postprocess.largest_component,
        "fill_holes": postprocess.fill_holes,
        "min_volume_ml": postprocess.min_volume_ml,
    }
