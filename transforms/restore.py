"""Predictions on the prepared grid to classes on the grid of the file, a few rows at a time.

The result equals "interpolate the probabilities of every class linearly to the file's voxels, then take the
largest", the accurate way, without ever holding them there: where all prepared voxels that an output voxel is interpolated
from have the same most probable class, that class is also the largest of the interpolation (its weights are
not negative), so that only voxels at the borders between classes are interpolated at all. Where nearly every
voxel is at a border, or classes are few, all voxels of some rows are interpolated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F

from transforms.geometry import Geometry, GeometryError, from_oriented
from transforms.memory import is_out_of_memory

CHUNK_VOXELS = 2_000_000
"""Bound on the output voxels that are looked at together."""
CHUNK_VALUES = 8_000_000
"""Bound on classes times voxels that are interpolated together; one row is the least."""
_FEW_CLASSES = 4
"""So few are interpolated everywhere in less time than it takes to find the borders."""

_T = TypeVar("_T")


class NonFiniteError(ValueError):
    """A network's output without a largest class: NaN or infinite."""


def slab_axis(geometry: Geometry) -> int:
    """The prepared axis along which a prediction should arrive: the longest whose planes stay planes."""
    axes = [axis for axis in range(geometry.spatial_dims) if _keeps_planes(geometry, axis)]
    return max(axes or range(geometry.spatial_dims), key=lambda axis: geometry.grid[axis])


def labels_from_probabilities(probabilities: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Probabilities of a whole volume, (C, *geometry.grid) of any floating type, to classes; see `Restorer`.

    Raises:
        GeometryError: the probabilities do not lie on the geometry's grid.
    """
    if tuple(probabilities.shape[1:]) != geometry.grid:
        raise GeometryError(
            f"the prediction has shape {tuple(probabilities.shape[1:])} but the prepared image has {geometry.grid}"
        )
    restorer = Restorer(geometry, probabilities.shape[0], slab_axis(geometry))
    restorer.push(probabilities)
    return restorer.labels()


class Restorer:
    """Takes probabilities on the prepared grid row after row and makes classes on the file's grid.

    Args:
        geometry: the record made when the image was prepared.
        classes: number of classes, background included.
        axis: the axis of the prepared grid along which rows arrive, see `slab_axis`.
        keep_probabilities: also interpolate the probabilities of all classes to the file's grid, which takes
            C times the volume in float32.

    Attributes:
        interpolates: whether the two grids differ by more than order, direction and crop.
        needs_softmax: whether probabilities are needed. Otherwise the scale of what is pushed does not matter:
            logits, or weighted sums of them, give the same classes.
    """

    def __init__(
        self, geometry: Geometry, classes: int, axis: int = 0, keep_probabilities: bool = False
    ) -> None:
        self.geometry = geometry
        self.classes = classes
        self.axis = axis
        self._dims = geometry.spatial_dims
        self._output: _Straight | _Sheared = (_Straight if geometry.shear is None else _Sheared)(
            geometry, axis
        )
        self.interpolates = geometry.shear is not None or geometry.grid != geometry.cropped_shape
        self.needs_softmax = self.interpolates or keep_probabilities
        # torch can hardly compute with uint16.
        self._dtype = torch.uint8 if classes <= 256 else torch.int32
        self._block = torch.zeros(self._output.shape, dtype=self._dtype)
        self._maps = torch.zeros((classes, *self._output.shape)) if keep_probabilities else None
        self._values: torch.Tensor | None = None
        self._best: torch.Tensor | None = None
        self._received = 0
        self._dropped = 0
        self._done = 0
        self._on_host = False

    def push(self, rows: torch.Tensor) -> None:
        """The next rows, (C, *spatial) with any extent along `axis`, on any device; not kept nor changed.

        Where the memory of the device gets too small, this and all later rows are worked on by the host.

        Raises:
            NonFiniteError: a voxel has NaN or an infinite value as its largest.
            ValueError: the number of classes is another.
        """
        self._push(rows, softmax=False)

    def push_logits(self, rows: torch.Tensor) -> None:
        """The same for logits; sums of them that lack a division where `needs_softmax` is False."""
        self._push(rows, softmax=self.needs_softmax)

    def _push(self, rows: torch.Tensor, softmax: bool) -> None:
        if len(rows) != self.classes:
            raise ValueError(f"rows of {len(rows)} classes came, not of {self.classes}")
        # In pieces, so that there is no second copy of all rows.
        step = max(1, CHUNK_VALUES * rows.shape[self.axis + 1] // max(1, rows.numel()))
        if self._values is not None and self._values.device != rows.device and not self._on_host:
            # Whoever sums the windows has left the device.
            self._to_host()
        for part in rows.split(step, self.axis + 1):
            values, best = self._retried(lambda part=part: self._classified(part, softmax))  # type: ignore[misc]
            if self.interpolates:
                self._values, self._best = values, best
                self._received += part.shape[self.axis + 1]
                self._retried(self._emit)
            else:
                self._store(values, best)

    def _retried(self, step: Callable[[], _T]) -> _T:
        """What `step` returns; where there is no memory for it on the device, on the host."""
        try:
            return step()
        except RuntimeError as error:
            if self._on_host or not is_out_of_memory(error):
                raise
        # Not above: the error holds on to the tensors of the frames that it came through.
        self._to_host()
        return step()

    def _to_host(self) -> None:
        self._on_host = True
        if self._values is not None and self._best is not None:
            self._values, self._best = self._values.cpu(), self._best.cpu()
        torch.cuda.empty_cache()

    def _classified(self, rows: torch.Tensor, softmax: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The prepared rows that are needed from now on, the axis of the rows first: values, classes."""
        rows = rows.cpu() if self._on_host else rows
        if softmax:
            rows = torch.softmax(rows.float(), 0)
        largest, best = rows.max(0)
        finite = largest.isfinite()
        if not bool(finite.all()):
            raise NonFiniteError(
                f"the network's output is NaN or infinite in {int((~finite).sum())} voxels, so that they have no class; "
                "predict with --precision fp32 (half precision may overflow), and if that does not help, "
                "look for NaN in the image or in the weights of the model"
            )
        best = best.to(self._dtype).movedim(self.axis, 0)
        if not self.interpolates:
            return rows, best
        values = rows.movedim(0, -1).movedim(self.axis, 0).float()
        if self._values is not None and self._best is not None:
            return torch.cat([self._values, values]).contiguous(), torch.cat([self._best, best]).contiguous()
        # A copy in any case: the caller may use the memory of its rows again.
        return values.clone(memory_format=torch.contiguous_format), best.contiguous()

    def _store(self, rows: torch.Tensor, best: torch.Tensor) -> None:
        stop = self._received + len(best)
        target = (slice(None),) * self.axis + (slice(self._received, stop),)
        self._block[target] = best.movedim(0, self.axis).cpu()
        if self._maps is not None:
            self._maps[(slice(None), *target)] = rows.float().cpu()
        self._received = stop

    def labels(self) -> torch.Tensor:
        """Classes (1, *file shape), uint8 (uint16 above 256 classes), 0 outside the crop, on the CPU.

        Raises:
            GeometryError: not all rows have been pushed.
        """
        self._require_all()
        block = self._output.placed(self._block, 0)
        if self._dtype != torch.uint8:
            block = block.to(torch.uint16)
        return from_oriented(block[None], self.geometry).contiguous()

    def probabilities(self) -> torch.Tensor:
        """Probabilities float32 (C, *file shape) on the CPU; background where the crop left the image out."""
        self._require_all()
        if self._maps is None:
            raise ValueError("the probabilities were not kept; ask for them with keep_probabilities=True")
        full = torch.stack([self._output.placed(m, int(c == 0)) for c, m in enumerate(self._maps)])
        return from_oriented(full, self.geometry).contiguous()

    def _require_all(self) -> None:
        expected = self.geometry.grid[self.axis]
        if self._received != expected:
            raise GeometryError(f"{self._received} of {expected} rows of the prediction have arrived")

    def _emit(self) -> None:
        """Finish all output rows whose prepared rows have arrived, and drop what is needed no more."""
        assert self._values is not None
        assert self._best is not None
        first, last = self._output.reach
        ready = int((last < self._received).sum())
        step = max(1, CHUNK_VOXELS // self._plane)
        for start in range(self._done, ready, step):
            stop = min(start + step, ready)
            labels = self._chunk(start, stop).movedim(0, self.axis)
            self._block[(slice(None),) * self.axis + (slice(start, stop),)] = labels.cpu()
        self._done = max(self._done, ready)
        needed = min(int(first[self._done]), self._received) if self._done < len(first) else self._received
        drop = needed - self._dropped
        if drop > 0:
            self._values, self._best = self._values[drop:].clone(), self._best[drop:].clone()
            self._dropped = needed

    @property
    def _plane(self) -> int:
        """Voxels of one output row."""
        return math.prod(n for axis, n in enumerate(self._output.shape) if axis != self.axis)

    def _chunk(self, start: int, stop: int) -> torch.Tensor:
        """Classes of the output rows from `start` to `stop`, the axis of the rows first."""
        assert self._values is not None
        assert self._best is not None
        straight = isinstance(self._output, _Straight)
        if straight and (self.classes <= _FEW_CLASSES or self._maps is not None):
            return self._everywhere(start, stop)
        low, high = self._output.extremes(self._best, self._dropped, start, stop)
        border = torch.ones_like(low, dtype=torch.bool) if self._maps is not None else low != high
        where = border.nonzero()
        # Measured per voxel: a border voxel costs about as much as 80 + C values, any voxel of whole rows as 4 + C.
        if straight and len(where) * (80 + self.classes) > low.numel() * (4 + self.classes):
            return self._everywhere(start, stop)
        flat = self._values.view(-1, self.classes)
        # The places and weights of the eight voxels behind each take about as much as 40 values.
        for part in where.split(max(1, CHUNK_VALUES // (self.classes + 40))):
            index, weight = self._output.support(part, self._best.shape, self._dropped, start)
            mixed = F.embedding_bag(index, flat, mode="sum", per_sample_weights=weight)
            place = tuple(part.unbind(1))
            low[place] = mixed.max(1).indices.to(low.dtype)
            if self._maps is not None:
                rows = self._maps.movedim(self.axis + 1, 1)[:, start:stop]
                rows[(slice(None), *(axis.cpu() for axis in place))] = mixed.T.cpu()
        outside = self._output.outside(start, stop)
        if outside is not None:
            low[outside.to(low.device)] = 0
            if self._maps is not None:
                background = torch.eye(self.classes)[0]
                self._maps.movedim(self.axis + 1, 1)[:, start:stop][:, outside] = background[:, None]
        return low

    def _everywhere(self, start: int, stop: int) -> torch.Tensor:
        """The same with every voxel interpolated."""
        assert self._values is not None
        assert isinstance(self._output, _Straight)
        step = max(1, CHUNK_VALUES // (self._plane * self.classes))
        found = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            mixed = self._output.interpolated(self._values, self._dropped, first, last)
            found.append(mixed.max(1).indices.to(self._dtype))
            if self._maps is not None:
                self._maps.movedim(self.axis + 1, 1)[:, first:last] = mixed.movedim(1, 0).cpu()
        return torch.cat(found)


def _keeps_planes(geometry: Geometry, axis: int) -> bool:
    if geometry.shear is None:
        return True
    return all(abs(geometry.shear[axis][other]) < 1e-9 for other in range(3) if other != axis)


class _Straight:
    """Output voxels of a grid at right angles: every axis for itself."""

    def __init__(self, geometry: Geometry, axis: int) -> None:
        self.geometry = geometry
        self.shape = geometry.cropped_shape
        taps = [_taps(have, want) for have, want in zip(geometry.grid, self.shape, strict=True)]
        order = [axis, *(other for other in range(len(taps)) if other != axis)]
        self.index = [taps[n][0] for n in order]
        self.weight = [taps[n][1] for n in order]
        self.reach = self.index[0].amin(1), self.index[0].amax(1)

    def extremes(
        self, best: torch.Tensor, dropped: int, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest class among the prepared voxels behind each output voxel."""
        low = high = best
        for axis, index in enumerate(self.index):
            taps = (index[start:stop] - dropped if axis == 0 else index).to(best.device)
            lows, highs = low, high
            for tap in range(taps.shape[1]):
                one = lows.index_select(axis, taps[:, tap])
                two = one if highs is lows else highs.index_select(axis, taps[:, tap])
                low = one if tap == 0 else torch.minimum(low, one)
                high = two if tap == 0 else torch.maximum(high, two)
        return low.clone() if low is high else low, high

    def support(
        self, where: torch.Tensor, shape: Sequence[int], dropped: int, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat indices and weights (N, taps) of the prepared voxels behind the output voxels `where` (N, axes)."""
        flat = torch.zeros((len(where), 1), dtype=torch.long, device=where.device)
        product = torch.ones((len(where), 1), device=where.device)
        for axis, (index, weight) in enumerate(zip(self.index, self.weight, strict=True)):
            row = where[:, axis] + (start if axis == 0 else 0)
            taps = index.to(where.device)[row] - (dropped if axis == 0 else 0)
            flat = (flat[:, :, None] * shape[axis] + taps[:, None]).flatten(1)
            product = (product[:, :, None] * weight.to(where.device)[row][:, None]).flatten(1)
        return flat, product

    def interpolated(self, values: torch.Tensor, dropped: int, start: int, stop: int) -> torch.Tensor:
        """Values (rows, C, *others) of all voxels of the output rows from those of prepared ones (..., C)."""
        index = self.index[0][start:stop].to(values.device) - dropped
        rows = values.index_select(0, index[:, 0])
        if index.shape[1] == 2:
            weight = self.weight[0][start:stop, 1].to(values.device)
            after = values.index_select(0, index[:, 1])
            rows = rows.lerp_(after, weight.view(-1, *[1] * (rows.ndim - 1)))
        others = [len(index) for index in self.index[1:]]
        rows = rows.movedim(-1, 1)
        if list(rows.shape[2:]) == others:
            return rows
        return F.interpolate(rows, others, mode="bilinear" if len(others) == 2 else "linear")

    def outside(self, start: int, stop: int) -> torch.Tensor | None:
        return None

    def placed(self, block: torch.Tensor, fill: int) -> torch.Tensor:
        """The cropped block within the whole oriented grid."""
        if self.shape == self.geometry.oriented_shape:
            return block
        whole = torch.full(self.geometry.oriented_shape, fill, dtype=block.dtype)
        whole[tuple(slice(a, b) for a, b in self.geometry.crop)] = block
        return whole


class _Sheared:
    """Output voxels of a sheared grid, which lie between the rows and columns of the prepared one."""

    def __init__(self, geometry: Geometry, axis: int) -> None:
        assert geometry.shear is not None
        self.geometry = geometry
        self.shape = geometry.oriented_shape
        self.order = [axis, *(other for other in range(3) if other != axis)]
        shear = torch.tensor(geometry.shear, dtype=torch.float64)
        start = torch.tensor([a for a, _ in geometry.crop], dtype=torch.float64)
        grid = torch.tensor(geometry.grid, dtype=torch.float64)
        step = torch.tensor(geometry.cropped_shape, dtype=torch.float64) / grid
        matrix = shear[:, :3] / step[:, None]
        offset = (shear[:, 3] - start + 0.5) / step - 0.5
        # As numbers: a product of matrices would be rounded to half precision under autocast, and to TF32.
        self.matrix: list[list[float]] = matrix[self.order][:, self.order].tolist()
        self.offset: list[float] = offset[self.order].tolist()
        self.grid = [geometry.grid[axis] for axis in self.order]
        count = self.shape[axis]
        if _keeps_planes(geometry, axis):
            at = torch.arange(count) * self.matrix[0][0] + self.offset[0]
            # A place on a row itself may round to either side of it.
            low, high = (at - 1e-3).floor().long(), (at + 1e-3).floor().long() + 1
            self.reach = low.clamp(0, self.grid[0] - 1), high.clamp(0, self.grid[0] - 1)
        else:
            self.reach = torch.zeros(count).long(), torch.full((count,), self.grid[0] - 1)

    def _row(self, row: int, device: torch.device) -> list[torch.Tensor]:
        """Indices along each axis of the voxels of an output row, which broadcast to all of them."""
        extents = [(row, row + 1), *((0, self.shape[axis]) for axis in self.order[1:])]
        return [
            torch.arange(a, b, device=device).view([-1 if n == axis else 1 for n in range(3)])
            for axis, (a, b) in enumerate(extents)
        ]

    def _at(self, voxels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Where voxels lie on the prepared grid, one tensor per axis; those of an axis that nothing moves stay small."""
        places = []
        for factors, offset in zip(self.matrix, self.offset, strict=True):
            moved = [v.float() * factor for v, factor in zip(voxels, factors, strict=True) if factor != 0]
            places.append(sum(moved[1:], moved[0]) + offset)
        return places

    def _corners(self, at: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per axis the two indices and weights, (..., 2)."""
        indices, weights = [], []
        for place, count in zip(at, self.grid, strict=True):
            place = place.clamp(0, count - 1)
            low = place.floor()
            part = place - low
            indices.append(torch.stack([low, place.ceil()], -1).long())
            weights.append(torch.stack([1 - part, part], -1))
        return indices, weights

    def extremes(
        self, best: torch.Tensor, dropped: int, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest class among the prepared voxels behind each output voxel."""
        low, high = [], []
        flat = best.reshape(-1)
        for row in range(start, stop):
            index, _ = self._corners(self._at(self._row(row, best.device)))
            corners = flat[self._flat(index, best.shape, dropped)]
            low.append(corners.amin(-1))
            high.append(corners.amax(-1))
        return torch.cat(low), torch.cat(high)

    def _flat(self, index: list[torch.Tensor], shape: Sequence[int], dropped: int) -> torch.Tensor:
        first = index[0][..., :, None, None] - dropped
        rest = index[1][..., None, :, None] * shape[2] + index[2][..., None, None, :]
        return (first * (shape[1] * shape[2]) + rest).flatten(-3)

    def support(
        self, where: torch.Tensor, shape: Sequence[int], dropped: int, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat indices and weights (N, 8) of the prepared voxels behind the output voxels `where` (N, 3)."""
        first, *others = where.unbind(1)
        index, weight = self._corners(self._at([first + start, *others]))
        product = weight[0][:, :, None, None] * weight[1][:, None, :, None] * weight[2][:, None, None, :]
        return self._flat(index, shape, dropped), product.flatten(1)

    def outside(self, start: int, stop: int) -> torch.Tensor | None:
        """Which voxels of the output rows lie outside the crop of the straightened image."""
        edge = 0.5 + 1e-3
        found = []
        for row in range(start, stop):
            out = torch.zeros(1, *(self.shape[axis] for axis in self.order[1:]), dtype=torch.bool)
            for at, count in zip(self._at(self._row(row, out.device)), self.grid, strict=True):
                out |= (at < -edge) | (at > count - 1 + edge)
            found.append(out)
        return torch.cat(found)

    def placed(self, block: torch.Tensor, fill: int) -> torch.Tensor:
        return block


def _taps(have: int, want: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Per output voxel of one axis the input voxels that its centre lies between, and their weights: (want, 2).

    Outputs beyond the centre of the first or last input take that one.
    """
    if have == want:
        return torch.arange(want)[:, None], torch.ones(want, 1)
    place = (torch.arange(want, dtype=torch.float64) + 0.5) * (have / want) - 0.5
    place = place.clamp(0, have - 1)
    low = place.floor()
    part = place - low
    return torch.stack([low, place.ceil()], 1).long(), torch.stack([1 - part, part], 1).float()
