"""A whole volume through a network that sees patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer
from tqdm import tqdm

Network = Callable[..., torch.Tensor]


class InferenceMemoryError(RuntimeError):
    """Not even a single window fits the memory of the device."""


class SlidingWindow(Inferer):
    """Logits of a whole volume from overlapping windows, blended with Gaussian weights.

    The windows, their weights and so the result are those of MONAI's SlidingWindowInferer. What differs is
    the memory: `rows` sweeps the volume along one axis and hands out rows of voxels as soon as no further
    window touches them, so that no more than one row of windows of C classes exists at a time.

    A window of two axes on a volume of three goes through it axial slice by slice.

    Args:
        roi_size: window, the patch size of the training; 0, negative or None for the whole extent of an axis.
        sw_batch_size: windows per forward pass; None fills the memory of a CUDA device, 1 elsewhere.
        overlap: share of a window that its neighbour covers too, 0 to below 1; one number or one per axis.
        mode: "gaussian" or "constant" weights.
        sigma_scale: standard deviation of the Gaussian in windows.
        padding_mode: how a volume smaller than the window is padded, see torch.nn.functional.pad.
        cval: what the network sees there with padding_mode "constant" (air).
        sw_device: where the network computes; None for the device of its weights, else of the volume. The
            volume may stay on the host: windows are copied while the device computes.
        device: where windows are blended; None for `sw_device`, or the CPU where its memory is too small.
        progress: show a progress bar over the windows, where somebody looks at a terminal.
        mirror_axes: spatial axes (0, 1, 2) along which test-time augmentation mirrors each window; the
            logits of all combinations are averaged. Only sensible for axes that the training mirrored too.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int,
        sw_batch_size: int | None = None,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "gaussian",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = -1.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        mirror_axes: Sequence[int] = (),
    ) -> None:
        self.roi_size = roi_size if isinstance(roi_size, int) else tuple(int(n or 0) for n in roi_size)
        if sw_batch_size is not None and sw_batch_size < 1:
            raise ValueError(f"sw_batch_size is a number of windows, at least 1, not {sw_batch_size}")
        self.overlap = overlap if isinstance(overlap, (int, float)) else tuple(float(o) for o in overlap)
        overlaps = (self.overlap,) if isinstance(self.overlap, (int, float)) else self.overlap
        if not all(0 <= o < 1 for o in overlaps):
            raise ValueError(f"overlap is a share of the window, 0 to below 1, not {overlap}")
        if mode not in ("gaussian", "constant"):
            raise ValueError(f"mode is 'gaussian' or 'constant', not '{mode}'")
        self.sw_batch_size = sw_batch_size
        self.mode = mode
        self.sigma_scale = sigma_scale
        self.padding_mode = padding_mode
        self.cval = float(cval)
        self.sw_device = None if sw_device is None else torch.device(sw_device)
        self.device = None if device is None else torch.device(device)
        self.progress = progress
        self.mirror_axes = tuple(int(axis) for axis in mirror_axes)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, C, *spatial) to logits (B, classes, *spatial) in float32."""
        axis = _longest(inputs.shape[2:])
        volumes = []
        for image in inputs:
            logits: torch.Tensor | None = None
            start = 0
            for rows in self.rows(image[None], network, axis, True, *args, **kwargs):
                if logits is None:
                    target = self.device or rows.device
                    logits = torch.empty((rows.shape[0], *inputs.shape[2:]), device=target)
                logits.narrow(axis + 1, start, rows.shape[axis + 1]).copy_(rows)
                start += rows.shape[axis + 1]
            assert logits is not None
            volumes.append(logits)
        return torch.stack(volumes)

    def rows(
        self,
        inputs: torch.Tensor,
        network: Network,
        axis: int | None = None,
        normalise: bool = True,
        *args: Any,
        cval: float | None = None,
        **kwargs: Any,
    ) -> Iterator[torch.Tensor]:
        """Blended logits of one volume, finished rows along one axis after another.

        Args:
            inputs: (1, C, *spatial).
            network: called with windows (N, C, *roi_size) and the remaining arguments; must return logits
                (N, classes, *roi_size).
            axis: spatial axis of the sweep; the longest by default.
            normalise: divide by the sum of weights. Without it the logits of each voxel are scaled by a
                positive number, which does not change the largest.
            cval: instead of the constructor's, for this volume.

        Yields:
            Tensors (classes, *spatial) with some extent along `axis`, float32; together they are the volume.
            Each is only valid until the next is asked for.

        Raises:
            ValueError: the volume has another number of axes than the window, or the network returns
                something else than logits of the window's size.
            InferenceMemoryError: a single window does not fit the memory of the device.
        """
        if inputs.shape[0] != 1:
            raise ValueError(f"rows() takes one volume at a time, not a batch of {inputs.shape[0]}")
        volume = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        plan = _Plan(self, volume.shape[2:], axis)
        device = self.sw_device or _device_of(network) or volume.device
        batches = _Batches(plan, volume, network, device, self, cval, args, kwargs)
        slab: _Slab | None = None
        for window, logits in batches:
            if slab is None:
                slab = _Slab(plan, logits, normalise, self.device)
            yield from slab.up_to(window.start[plan.axis])
            slab.add(window, logits)
        assert slab is not None
        yield from slab.up_to(None)


class _Window(NamedTuple):
    start: tuple[int, ...]


class _Plan:
    """Where the windows of a volume lie: all of one row along `axis` before those of the next."""

    def __init__(self, options: SlidingWindow, shape: Sequence[int], axis: int | None) -> None:
        self.shape = tuple(int(n) for n in shape)
        dims = len(self.shape)
        roi = (options.roi_size,) * dims if isinstance(options.roi_size, int) else options.roi_size
        self.flat = len(roi) == 2 and dims == 3
        if self.flat:
            roi = (*roi, 1)
        if len(roi) != dims:
            raise ValueError(
                f"a window of {len(roi)} axes {tuple(roi)} does not fit an image of {dims} axes {self.shape}"
            )
        overlap = options.overlap
        overlaps = (float(overlap),) * dims if isinstance(overlap, (int, float)) else tuple(overlap)
        if self.flat and len(overlaps) == 2:
            overlaps = (*overlaps, 0.0)
        if len(overlaps) != dims:
            raise ValueError(f"overlap {overlaps} needs one number, or one per axis of the window {roi}")
        self.roi = tuple(n if r <= 0 else r for r, n in zip(roi, self.shape, strict=True))
        self.axis = (2 if self.flat else _longest(self.shape)) if axis is None else axis
        # As MONAI pads and places: in the middle, and the last window ends with the volume.
        self.before = tuple(max(r - n, 0) // 2 for r, n in zip(self.roi, self.shape, strict=True))
        self.padded = tuple(max(r, n) for r, n in zip(self.roi, self.shape, strict=True))
        interval = [
            r if r == n else max(1, int(r * (1 - o)))
            for r, n, o in zip(self.roi, self.padded, overlaps, strict=True)
        ]
        slices = dense_patch_slices(self.padded, self.roi, tuple(interval))
        starts = [tuple(s.start for s in one) for one in slices]
        self.windows = [_Window(start) for start in sorted(starts, key=lambda start: start[self.axis])]
        self.weights = self._weights(options)

    def _weights(self, options: SlidingWindow) -> torch.Tensor:
        roi = self.roi[:-1] if self.flat else self.roi
        sigma = (
            options.sigma_scale
            if isinstance(options.sigma_scale, (int, float))
            else list(options.sigma_scale)
        )
        weights = compute_importance_map(roi, mode=options.mode, sigma_scale=sigma, device="cpu")
        assert isinstance(weights, torch.Tensor)
        return weights.float().reshape(self.roi)


class _Slab:
    """Sums of weighted logits of the rows that windows still touch."""

    def __init__(
        self, plan: _Plan, logits: torch.Tensor, normalise: bool, device: torch.device | None
    ) -> None:
        self.plan, self.axis = plan, plan.axis
        extent = list(plan.padded)
        extent[self.axis] = plan.roi[self.axis]
        classes = logits.shape[0]
        self.device = device or _blending_device(logits.device, 4 * (classes + 1) * math.prod(extent))
        # The memory order of the network's output: sums of differently ordered tensors are several times slower.
        last = logits.ndim > 1 and logits.stride(0) == 1 and classes > 1
        if last:
            self.sums = torch.zeros((*extent, classes), device=self.device).movedim(-1, 0)
        else:
            self.sums = torch.zeros((classes, *extent), device=self.device)
        self.buffer: torch.Tensor | None = None
        self.weights = plan.weights.to(self.device)
        self.counts = torch.zeros(extent, device=self.device) if normalise else None
        self.first = 0

    def add(self, window: _Window, logits: torch.Tensor) -> None:
        at = [slice(start, start + size) for start, size in zip(window.start, self.plan.roi, strict=True)]
        at[self.axis] = slice(0, self.plan.roi[self.axis])
        if logits.dtype != torch.float32 or logits.device != self.device:
            # Sums of half-precision values change labels; the sums are always float32. One buffer for all
            # windows: fresh memory costs a CPU more than the arithmetic.
            if self.buffer is None:
                self.buffer = torch.empty_like(logits, dtype=torch.float32, device=self.device)
            logits = self.buffer.copy_(logits)
        self.sums[(slice(None), *at)].addcmul_(logits, self.weights)
        if self.counts is not None:
            self.counts[tuple(at)] += self.weights

    def up_to(self, stop: int | None) -> Iterator[torch.Tensor]:
        """Rows before `stop` of the padded volume, which no further window touches; all with None."""
        extent = self.plan.roi[self.axis]
        count = extent if stop is None else min(stop - self.first, extent)
        if count == 0:
            return
        rows = self.sums.narrow(self.axis + 1, 0, count)
        if self.counts is not None:
            rows.div_(self.counts.narrow(self.axis, 0, count))
        begin = self.plan.before[self.axis]
        end = begin + self.plan.shape[self.axis]
        inside = slice(max(begin - self.first, 0), max(min(end - self.first, count), 0))
        box = [slice(b, b + n) for b, n in zip(self.plan.before, self.plan.shape, strict=True)]
        box[self.axis] = inside
        if inside.stop > inside.start:
            yield rows[(slice(None), *box)]
        if stop is not None:
            _shift(self.sums, self.axis + 1, count)
            if self.counts is not None:
                _shift(self.counts, self.axis, count)
        self.first += count


def _shift(rows: torch.Tensor, axis: int, count: int) -> None:
    """Move rows towards the front by `count` and clear those behind."""
    extent = rows.shape[axis]
    for start in range(0, extent - count, count):
        size = min(count, extent - count - start)
        rows.narrow(axis, start, size).copy_(rows.narrow(axis, start + count, size))
    rows.narrow(axis, extent - count, count).zero_()


class _Batches:
    """Windows with their logits (classes, *roi), in the order of the plan.

    While a CUDA device computes one batch, the next is copied to it from pinned memory and the logits of the
    one before are blended.
    """

    def __init__(
        self,
        plan: _Plan,
        volume: torch.Tensor,
        network: Network,
        device: torch.device,
        options: SlidingWindow,
        cval: float | None,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> None:
        self.plan, self.network, self.device, self.options = plan, network, device, options
        self.args, self.kwargs = args, kwargs
        pad = [
            n
            for b, p, s in zip(
                reversed(plan.before), reversed(plan.padded), reversed(plan.shape), strict=True
            )
            for n in (b, p - s - b)
        ]
        if any(pad):
            if options.padding_mode == "constant":
                volume = F.pad(volume, pad, value=options.cval if cval is None else cval)
            else:
                volume = F.pad(volume, pad, mode=options.padding_mode)
        if device.type == "cuda" and volume.device.type == "cpu":
            fits = volume.nbytes < 0.25 * torch.cuda.mem_get_info(device)[0]
            volume = volume.to(device) if fits else volume
        self.volume = volume[0]
        self.size = options.sw_batch_size or 1
        # Chosen after the first window has shown what it needs.
        self.automatic = options.sw_batch_size is None and device.type == "cuda"

    def __iter__(self) -> Iterator[tuple[_Window, torch.Tensor]]:
        bar = tqdm(
            total=len(self.plan.windows),
            disable=None if self.options.progress else True,
            unit="window",
            leave=False,
        )
        pending: tuple[list[_Window], torch.Tensor] | None = None
        done = 0
        with bar:
            while done < len(self.plan.windows):
                windows = self.plan.windows[done : done + self.size]
                logits = self._forward(windows)
                windows = windows[: len(logits)]
                done += len(windows)
                # On CUDA the call above has only queued the work; the device is busy while the last is blended.
                if pending is not None:
                    yield from zip(*pending, strict=True)
                pending = (windows, logits)
                bar.update(len(windows))
        if pending is not None:
            yield from zip(*pending, strict=True)

    def _forward(self, windows: list[_Window]) -> torch.Tensor:
        """Logits of the first windows, as many as the device's memory allows."""
        while True:
            try:
                if not self.automatic:
                    return self._logits(self._gather(windows))
                self.automatic = False
                logits, self.size = self._measured(windows)
                return logits
            except torch.OutOfMemoryError as error:
                if self.size == 1:
                    raise InferenceMemoryError(
                        f"a single window of {self.plan.roi} voxels does not fit the memory of {self.device}; "
                        "free it of other programs, use --precision bf16, or compute with --device cpu"
                    ) from error
            torch.cuda.empty_cache()
            self.size = max(1, self.size // 2)
            windows = windows[: self.size]

    def _measured(self, windows: list[_Window]) -> tuple[torch.Tensor, int]:
        """The first window's logits, and how many windows fit the memory of the device at once."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        logits = self._logits(self._gather(windows[:1]))
        torch.cuda.synchronize(self.device)
        needed = torch.cuda.max_memory_allocated(self.device) - before
        free, _ = torch.cuda.mem_get_info(self.device)
        # The sums of a row of windows will be there too.
        extent = [n for axis, n in enumerate(self.plan.padded) if axis != self.plan.axis]
        slab = 4 * (logits.shape[1] + 1) * math.prod(extent) * self.plan.roi[self.plan.axis]
        room = 0.7 * (free + torch.cuda.memory_reserved(self.device) - before) - slab
        row = len(self.plan.windows) // max(1, len({w.start[self.plan.axis] for w in self.plan.windows}))
        return logits, max(1, min(int(room // max(needed, 1)), 2 * row, 32))

    def _gather(self, windows: list[_Window]) -> torch.Tensor:
        """Windows (N, C, *roi) on the device."""
        views = [
            self.volume[
                (slice(None), *(slice(a, a + n) for a, n in zip(w.start, self.plan.roi, strict=True)))
            ]
            for w in windows
        ]
        if self.device.type == "cuda" and self.volume.device.type == "cpu":
            staged = torch.empty((len(views), *views[0].shape), dtype=self.volume.dtype, pin_memory=True)
            for target, view in zip(staged, views, strict=True):
                target.copy_(view)
            # The caching host allocator keeps the pinned memory until the copy is done.
            return staged.to(self.device, non_blocking=True)
        return torch.stack(views).to(self.device)

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        if self.plan.flat:
            batch = batch.squeeze(-1)
        axes = [axis + 2 for axis in self.options.mirror_axes]
        if any(not 2 <= axis < batch.ndim for axis in axes):
            raise ValueError(
                f"mirror_axes {self.options.mirror_axes} must be axes 0 to {batch.ndim - 3} of the window"
            )
        flips = [f for n in range(len(axes) + 1) for f in itertools.combinations(axes, n)]
        total: torch.Tensor | None = None
        for flip in flips:
            logits = self.network(batch.flip(flip) if flip else batch, *self.args, **self.kwargs)
            if not isinstance(logits, torch.Tensor) or logits.shape[2:] != batch.shape[2:]:
                found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
                raise ValueError(
                    f"the network must return logits of the window's size {tuple(batch.shape[2:])}, not {found}"
                )
            logits = logits.flip(flip).float() if flip else logits
            total = logits if total is None else total.float().add_(logits)
        assert total is not None
        total = total / len(flips) if len(flips) > 1 else total
        return total.unsqueeze(-1) if self.plan.flat else total


def _longest(shape: Sequence[int]) -> int:
    return max(range(len(shape)), key=lambda axis: shape[axis])


def _device_of(network: Network) -> torch.device | None:
    parameters = network.parameters() if isinstance(network, torch.nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


def _blending_device(device: torch.device, needed: int) -> torch.device:
    """The device of the logits if the sums fit there beside the network, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return device if needed < 0.5 * (free + cached) else torch.device("cpu")
