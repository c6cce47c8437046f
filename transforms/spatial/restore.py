"""Predictions on the prepared grid to classes on the grid of the file, a few rows at a time.

The result equals "interpolate the probabilities of every class linearly to the file's voxels, then take the
largest", but the interpolated probabilities are never all in memory. Where all prepared voxels that an output voxel is
interpolated from have the same most probable class, that class also has the largest interpolated value (the weights
are not negative), so that only voxels at borders between classes are interpolated. If nearly every voxel is at a
border, or if there are few classes, all voxels of several rows are interpolated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F

from transforms.errors import FAILED, SettingError, UserError
from transforms.spatial.geometry import Geometry, GeometryError, from_oriented
from transforms.spatial.restore_grids import Sheared, Straight, keeps_planes
from transforms.utils.memory import is_out_of_memory

CHUNK_VOXELS = 2_000_000
"""Largest number of output voxels that are processed together."""
CHUNK_VALUES = 8_000_000
"""Largest number of classes times voxels that are interpolated together; at least one row."""
CUDA_FACTOR = 8
"""Largest factor for both bounds on a GPU, which is idle between small pieces: 1 per 4 GiB of its memory."""
_FEW_CLASSES = 4
"""Up to this number, interpolating every voxel takes less time than finding the borders."""

_T = TypeVar("_T")


class NonFiniteError(UserError, ValueError):
    """The output of a network is NaN or infinite, so that no class is the largest."""

    exit_status = FAILED


def slab_axis(geometry: Geometry) -> int:
    """The prepared axis along which a prediction should arrive: the longest whose planes stay planes."""
    axes = [axis for axis in range(geometry.spatial_dims) if keeps_planes(geometry, axis)]
    return max(axes or range(geometry.spatial_dims), key=lambda axis: geometry.grid[axis])


class Restorer:
    """Convert probabilities on the prepared grid, row by row, to classes on the file's grid.

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
        self._output: Straight | Sheared = (Straight if geometry.shear is None else Sheared)(geometry, axis)
        self.interpolates = geometry.shear is not None or geometry.grid != geometry.cropped_shape
        self.needs_softmax = self.interpolates or keep_probabilities
        # torch can hardly compute with uint16.
        self._dtype = torch.uint8 if classes <= 256 else torch.int32
        # On the device of the rows while its memory suffices, where writing and reordering are fast.
        self._block: torch.Tensor | None = None
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
            SettingError: the number of classes is wrong.
        """
        self._push(rows, softmax=False)

    def push_logits(self, rows: torch.Tensor) -> None:
        """As `push`, for logits; if `needs_softmax` is False, also for weighted sums of logits."""
        self._push(rows, softmax=self.needs_softmax)

    def _push(self, rows: torch.Tensor, softmax: bool) -> None:
        if len(rows) != self.classes:
            raise SettingError(f"got rows of {len(rows)} classes, expected {self.classes}")
        # In pieces, so that there is no second copy of all rows.
        bound = self._bound(CHUNK_VALUES, rows.device)
        step = max(1, bound * rows.shape[self.axis + 1] // max(1, rows.numel()))
        if self._block is None:
            self._block = self._retried(lambda: self._empty(rows.device))
        if self._values is not None and self._values.device != rows.device and not self._on_host:
            # The caller already sums the windows on the host.
            self._to_host()
        for part in rows.split(step, self.axis + 1):
            values, best = self._retried(lambda part=part: self._classified(part, softmax))  # type: ignore[misc]
            if self.interpolates:
                self._values, self._best = values, best
                self._received += part.shape[self.axis + 1]
                self._retried(self._emit)
            else:
                self._store(values, best)

    def _empty(self, device: torch.device) -> torch.Tensor:
        return torch.zeros(self._output.shape, dtype=self._dtype, device="cpu" if self._on_host else device)

    def _bound(self, values: int, device: torch.device) -> int:
        if device.type != "cuda" or self._on_host:
            return values
        memory = torch.cuda.get_device_properties(device).total_memory
        return values * max(1, min(CUDA_FACTOR, memory >> 32))

    def _retried(self, step: Callable[[], _T]) -> _T:
        """What `step` returns; if the memory of the device does not suffice, it is run again on the host."""
        try:
            return step()
        except RuntimeError as error:
            if self._on_host or not is_out_of_memory(error):
                raise
        # Not in the except block: the error keeps references to the tensors of its stack frames.
        self._to_host()
        return step()

    def _to_host(self) -> None:
        self._on_host = True
        if self._values is not None and self._best is not None:
            self._values, self._best = self._values.cpu(), self._best.cpu()
        self._block = None if self._block is None else self._block.cpu()
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
        assert self._block is not None
        stop = self._received + len(best)
        target = (slice(None),) * self.axis + (slice(self._received, stop),)
        self._block[target] = best.movedim(0, self.axis).to(self._block.device)
        if self._maps is not None:
            self._maps[(slice(None), *target)] = rows.float().cpu()
        self._received = stop

    def labels(self) -> torch.Tensor:
        """Classes (1, *file shape), uint8 (uint16 above 256 classes), 0 outside the crop, on the CPU.

        Raises:
            GeometryError: not all rows have been pushed.
        """
        self._require_all()
        return self._retried(self._whole)

    def _whole(self) -> torch.Tensor:
        assert self._block is not None
        block = self._output.placed(self._block, 0)
        whole = from_oriented(block[None], self.geometry).contiguous().cpu()
        # Not before: torch can reverse uint16 along some axes only.
        return whole if self._dtype == torch.uint8 else whole.to(torch.uint16)

    def probabilities(self) -> torch.Tensor:
        """Probabilities float32 (C, *file shape) on the CPU; background where the crop left the image out."""
        self._require_all()
        if self._maps is None:
            raise SettingError("the probabilities were not kept; ask for them with keep_probabilities=True")
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
        assert self._block is not None
        step = max(1, self._bound(CHUNK_VOXELS, self._values.device) // self._plane)
        for start in range(self._done, ready, step):
            stop = min(start + step, ready)
            labels = self._chunk(start, stop).movedim(0, self.axis)
            self._block[(slice(None),) * self.axis + (slice(start, stop),)] = labels.to(self._block.device)
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
        straight = isinstance(self._output, Straight)
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
        bound = self._bound(CHUNK_VALUES, where.device)
        for part in where.split(max(1, bound // (self.classes + 40))):
            index, weight = self._output.support(part, self._best.shape, self._dropped, start)
            mixed = F.embedding_bag(index, flat, mode="sum", per_sample_weights=weight)
            place = tuple(part.unbind(1))
            low[place] = mixed.max(1).indices.to(low.dtype)
            if self._maps is not None:
                rows = self._maps.movedim(self.axis + 1, 1)[:, start:stop]
                rows[(slice(None), *(axis.cpu() for axis in place))] = mixed.T.cpu()
        outside = self._output.outside(start, stop, low.device)
        if outside is not None:
            low.masked_fill_(outside, 0)
            if self._maps is not None:
                background = torch.eye(self.classes)[0]
                self._maps.movedim(self.axis + 1, 1)[:, start:stop][:, outside.cpu()] = background[:, None]
        return low

    def _everywhere(self, start: int, stop: int) -> torch.Tensor:
        """As `_chunk`, with every voxel interpolated."""
        assert self._values is not None
        assert isinstance(self._output, Straight)
        step = max(1, self._bound(CHUNK_VALUES, self._values.device) // (self._plane * self.classes))
        found = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            mixed = self._output.interpolated(self._values, self._dropped, first, last)
            found.append(mixed.max(1).indices.to(self._dtype))
            if self._maps is not None:
                self._maps.movedim(self.axis + 1, 1)[:, first:last] = mixed.movedim(1, 0).cpu()
        return torch.cat(found)
