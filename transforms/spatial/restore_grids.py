"""Where the voxels of a file's grid lie on the prepared grid, for `transforms.spatial.restore`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from transforms.spatial.geometry import Geometry


def keeps_planes(geometry: Geometry, axis: int) -> bool:
    """Whether voxels in one plane across `axis` also lie in one plane on the other grid."""
    if geometry.shear is None:
        return True
    return all(abs(geometry.shear[axis][other]) < 1e-9 for other in range(3) if other != axis)


class Straight:
    """Output voxels of a right-angled grid, interpolated along each axis independently."""

    def __init__(self, geometry: Geometry, axis: int) -> None:
        self.geometry = geometry
        self.shape = geometry.cropped_shape
        taps = [_taps(have, want) for have, want in zip(geometry.grid, self.shape, strict=True)]
        order = [axis, *(other for other in range(len(taps)) if other != axis)]
        self.index = [taps[n][0] for n in order]
        self.weight = [taps[n][1] for n in order]
        self.reach = self.index[0].amin(1), self.index[0].amax(1)

    def _to(self, device: torch.device) -> None:
        """Indices and weights where they are used; copied once, since every copy to a GPU waits for it."""
        if self.index[0].device != device:
            self.index = [index.to(device) for index in self.index]
            self.weight = [weight.to(device) for weight in self.weight]

    def extremes(
        self, best: torch.Tensor, dropped: int, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest class among the prepared voxels behind each output voxel."""
        self._to(best.device)
        low = high = best
        for axis, index in enumerate(self.index):
            taps = index[start:stop] - dropped if axis == 0 else index
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
        self._to(where.device)
        flat = torch.zeros((len(where), 1), dtype=torch.long, device=where.device)
        product = torch.ones((len(where), 1), device=where.device)
        for axis, (index, weight) in enumerate(zip(self.index, self.weight, strict=True)):
            row = where[:, axis] + (start if axis == 0 else 0)
            taps = index[row] - (dropped if axis == 0 else 0)
            flat = (flat[:, :, None] * shape[axis] + taps[:, None]).flatten(1)
            product = (product[:, :, None] * weight[row][:, None]).flatten(1)
        return flat, product

    def interpolated(self, values: torch.Tensor, dropped: int, start: int, stop: int) -> torch.Tensor:
        """Values (rows, C, *others) of all voxels of the output rows from those of prepared ones (..., C)."""
        self._to(values.device)
        index = self.index[0][start:stop] - dropped
        rows = values.index_select(0, index[:, 0])
        if index.shape[1] == 2:
            weight = self.weight[0][start:stop, 1]
            after = values.index_select(0, index[:, 1])
            rows = rows.lerp_(after, weight.view(-1, *[1] * (rows.ndim - 1)))
        others = [len(index) for index in self.index[1:]]
        rows = rows.movedim(-1, 1)
        if list(rows.shape[2:]) == others:
            return rows
        return F.interpolate(rows, others, mode="bilinear" if len(others) == 2 else "linear")

    def outside(self, start: int, stop: int, device: torch.device) -> torch.Tensor | None:
        return None

    def placed(self, block: torch.Tensor, fill: int) -> torch.Tensor:
        """The cropped block within the whole oriented grid."""
        if self.shape == self.geometry.oriented_shape:
            return block
        whole = torch.full(self.geometry.oriented_shape, fill, dtype=block.dtype, device=block.device)
        whole[tuple(slice(a, b) for a, b in self.geometry.crop)] = block
        return whole


class Sheared:
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
        if keeps_planes(geometry, axis):
            at = torch.arange(count) * self.matrix[0][0] + self.offset[0]
            # A position exactly on a row may be rounded to either side of it.
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

    def outside(self, start: int, stop: int, device: torch.device) -> torch.Tensor | None:
        """Which voxels of the output rows lie outside the crop of the straightened image."""
        edge = 0.5 + 1e-3
        found = []
        for row in range(start, stop):
            extents = [self.shape[axis] for axis in self.order[1:]]
            out = torch.zeros(1, *extents, dtype=torch.bool, device=device)
            for at, count in zip(self._at(self._row(row, device)), self.grid, strict=True):
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
