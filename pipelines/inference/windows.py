"""The windows of a volume: their positions, and their logits, computed in batches that fit in the device's memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices

from pipelines.inference.pass_agreement import PassAgreement
from pipelines.utils.progress import Steps, at_work
from transforms.errors import SettingError, UserError
from transforms.utils.memory import is_out_of_memory

Network = Callable[..., torch.Tensor]


class InferenceMemoryError(UserError, RuntimeError):
    """Not even a single window fits in the memory of the device."""


ENOUGH_VOXELS = 8_000_000
"""Limit of the voxels in one forward pass; more voxels need more memory but do not make a large GPU faster."""


class Window(NamedTuple):
    start: tuple[int, ...]


class _Computed(NamedTuple):
    """Windows with their logits (N, classes, *roi), and on CUDA the event after which the logits are computed."""

    windows: list[Window]
    logits: torch.Tensor
    done: torch.cuda.Event | None


class Plan:
    """The positions of the windows of a volume, ordered by row: windows with the same start along `axis` are a row.

    Args:
        shape: spatial shape of the volume.
        roi_size, overlap, mode, sigma_scale, axis: see `SlidingWindow` and its `rows`.

    Attributes:
        flat: whether a 2D window is applied to a 3D volume.
        before: voxels of padding before the volume, per axis.
        padded: shape of the padded volume.
        weights: weights of the voxels of a window, (*roi) float32 on the CPU.
    """

    def __init__(
        self,
        shape: Sequence[int],
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float,
        mode: str,
        sigma_scale: Sequence[float] | float,
        axis: int | None,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        dims = len(self.shape)
        roi = (roi_size,) * dims if isinstance(roi_size, int) else tuple(roi_size)
        self.flat = len(roi) == 2 and dims == 3
        if self.flat:
            roi = (*roi, 1)
        if len(roi) != dims:
            raise SettingError(
                f"a window of {len(roi)} axes {tuple(roi)} does not fit an image of {dims} axes {self.shape}"
            )
        overlaps = (float(overlap),) * dims if isinstance(overlap, (int, float)) else tuple(overlap)
        if self.flat and len(overlaps) == 2:
            overlaps = (*overlaps, 0.0)
        if len(overlaps) != dims:
            raise SettingError(f"overlap {overlaps} needs one number, or one per axis of the window {roi}")
        self.roi = tuple(n if r <= 0 else r for r, n in zip(roi, self.shape, strict=True))
        self.axis = (2 if self.flat else longest(self.shape)) if axis is None else axis
        # As in MONAI: padding is equal on both sides, and the last window ends at the end of the volume.
        self.before = tuple(max(r - n, 0) // 2 for r, n in zip(self.roi, self.shape, strict=True))
        self.padded = tuple(max(r, n) for r, n in zip(self.roi, self.shape, strict=True))
        interval = [
            r if r == n else max(1, int(r * (1 - o)))
            for r, n, o in zip(self.roi, self.padded, overlaps, strict=True)
        ]
        slices = dense_patch_slices(self.padded, self.roi, tuple(interval))
        starts = [tuple(s.start for s in one) for one in slices]
        self.windows = [Window(start) for start in sorted(starts, key=lambda start: start[self.axis])]
        sigma = sigma_scale if isinstance(sigma_scale, (int, float)) else list(sigma_scale)
        extent = self.roi[:-1] if self.flat else self.roi
        weights = compute_importance_map(extent, mode=mode, sigma_scale=sigma, device="cpu")
        assert isinstance(weights, torch.Tensor)
        self.weights = weights.float().reshape(self.roi)

    @property
    def slab(self) -> tuple[int, ...]:
        """Spatial shape of a row of windows."""
        return tuple(
            r if axis == self.axis else n
            for axis, (n, r) in enumerate(zip(self.padded, self.roi, strict=True))
        )

    @property
    def row(self) -> int:
        """Number of windows in a row."""
        return len(self.windows) // len({window.start[self.axis] for window in self.windows})

    def padding(self, volume: torch.Tensor, mode: str, value: float | Sequence[float]) -> torch.Tensor:
        """A volume (1, C, *shape) with the margin in which windows lie (1, C, *padded).

        Args:
            mode, value: see `SlidingWindow`.
        """
        axes = zip(reversed(self.before), reversed(self.padded), reversed(self.shape), strict=True)
        pad = [n for before, padded, size in axes for n in (before, padded - size - before)]
        return _padded(volume, pad, mode, value) if any(pad) else volume

    def cut(self, volume: torch.Tensor, window: Window) -> torch.Tensor:
        """The voxels of a window (C, *roi) in a padded volume (C, *padded)."""
        at = (slice(start, start + size) for start, size in zip(window.start, self.roi, strict=True))
        return volume[(slice(None), *at)]


class Batches:
    """Computes the logits (classes, *roi) of the windows of a plan, in the order of the plan.

    While a CUDA device computes a batch, the logits of the previous batch are blended, and the next batch is copied to
    pinned memory. If `blended_on_host` returns true, logits are yielded on the CPU, and each is valid only until the
    next one is requested. If the memory of the device is too small, first only one batch at a time is computed and
    batches become smaller, then `make_room` is called, then the volume is moved back to the CPU.

    Args:
        plan: the positions of the windows.
        volume: volume (1, C, *spatial) on any device.
        network: called with windows (N, C, *roi).
        device: device of the network.
        size: windows per forward pass; None for as many as fit in the memory of a CUDA device, and 1 on other devices.
        padding_mode, cval, mirror_axes, progress: see `SlidingWindow`; `cval` is one value, or one per channel.
        blending: device on which windows are blended; None to choose it by the free memory.
        agreement: collects the votes of all passes over each window; None collects nothing.
    """

    def __init__(
        self,
        plan: Plan,
        volume: torch.Tensor,
        network: Network,
        device: torch.device,
        *,
        size: int | None,
        padding_mode: str,
        cval: float | Sequence[float],
        mirror_axes: Sequence[int],
        blending: torch.device | None,
        progress: bool,
        agreement: PassAgreement | None = None,
    ) -> None:
        self.plan, self.network, self.device = plan, network, device
        self.agreement = agreement
        self.mirror_axes, self.blending, self.progress = tuple(mirror_axes), blending, progress
        volume = plan.padding(volume, padding_mode, cval)
        self._came_from_host = device.type == "cuda" and volume.device.type == "cpu"
        if self._came_from_host and volume.nbytes < 0.25 * torch.cuda.mem_get_info(device)[0]:
            volume = volume.to(device)
        self.volume = volume[0]
        # Separate streams, so that copies do not wait for the batch that the network computes.
        self.copies = torch.cuda.Stream(device) if self._came_from_host else None
        self._results = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._landing: torch.Tensor | None = None
        self.size = size or 1
        # The size is chosen after the memory use of the first window was measured.
        self.automatic = size is None and device.type == "cuda"
        # On a CPU, computing ahead would only need memory for the logits of one more batch.
        self.ahead = device.type == "cuda"
        self.make_room: Callable[[], bool] = lambda: False
        self.blended_on_host: Callable[[], bool] = lambda: False

    def __iter__(self) -> Iterator[tuple[Window, torch.Tensor]]:
        plan = self.plan
        pending: _Computed | None = None
        done = 0
        # Within other work that shows its progress, windows are shown only for a volume that takes long.
        quiet, delay = not (self.progress or at_work()), 0.0 if self.progress else 5.0
        with Steps(len(plan.windows), "window", quiet=quiet, leave=False, delay=delay) as steps:
            while done < len(plan.windows):
                count = 1 if self.automatic else self.size
                computed, problem = self._tried(plan.windows[done : done + count])
                # On CUDA the call above has only queued the work; the device is busy while the last is blended.
                waiting = pending is not None
                if pending is not None:
                    yield from self._pairs(pending)
                    pending = None
                if computed is None:
                    self._shrink(waiting, problem)
                    continue
                done += len(computed.windows)
                steps.step(len(computed.windows))
                if self.ahead:
                    pending = computed
                else:
                    yield from self._pairs(computed)
                # Otherwise these logits stay in memory while the network computes the next.
                del computed
        if pending is not None:
            yield from self._pairs(pending)

    def _pairs(self, batch: _Computed) -> Iterator[tuple[Window, torch.Tensor]]:
        for number, window in enumerate(batch.windows):
            yield window, self._landed(batch.logits[number], batch.done)

    def _landed(self, logits: torch.Tensor, done: torch.cuda.Event | None) -> torch.Tensor:
        """The logits of a window, copied to the CPU if they are blended there."""
        if self._results is None or done is None or logits.device.type == "cpu" or not self.blended_on_host():
            return logits
        if self._landing is None:
            self._landing = torch.empty_like(logits, device="cpu", pin_memory=True)
        with torch.cuda.stream(self._results):
            self._results.wait_event(done)
            self._landing.copy_(logits, non_blocking=True)
        # Waits only for this copy, while the network computes the next batch.
        self._results.synchronize()
        return self._landing

    def _tried(self, windows: list[Window]) -> tuple[_Computed | None, BaseException | None]:
        """The windows with their logits, or the out-of-memory error."""
        try:
            logits = self._measured(windows) if self.automatic else self._logits(self._gather(windows))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # The frames of the traceback would keep tensors in memory.
            return None, error.with_traceback(None)
        done = None
        if logits.device.type == "cuda":
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(logits.device))
        return _Computed(windows, logits, done), None

    def _shrink(self, waiting: bool, problem: BaseException | None) -> None:
        """Reduce the memory use of the next batches.

        Args:
            waiting: whether logits of an earlier batch were in memory during the failed one.
            problem: the out-of-memory error.

        Raises:
            InferenceMemoryError: the memory use cannot be reduced further.
        """
        self.ahead = False
        if self.size > 1:
            self.size //= 2
        elif not waiting and not self.make_room() and not self._volume_to_host():
            raise InferenceMemoryError(
                f"a single window of {self.plan.roi} voxels does not fit in the memory of {self.device}; "
                "end other programs that use this device, use --precision bf16, or compute with --device cpu"
            ) from problem
        torch.cuda.empty_cache()

    def _volume_to_host(self) -> bool:
        if not self._came_from_host or self.volume.device.type == "cpu":
            return False
        self.volume = self.volume.cpu()
        return True

    def _measured(self, windows: list[Window]) -> torch.Tensor:
        """The logits of the first window; sets the number of windows per batch by the memory that it needed."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        logits = self._logits(self._gather(windows))
        torch.cuda.synchronize(self.device)
        # Plus the logits of the previous batch, which are in memory until they are blended.
        needed = torch.cuda.max_memory_allocated(self.device) - before + logits.nbytes
        free, _ = torch.cuda.mem_get_info(self.device)
        usable = free + torch.cuda.memory_reserved(self.device) - before
        sums = 4 * (logits.shape[1] + 1) * math.prod(self.plan.slab)
        on_device = (self.blending or blending_device(logits.device, sums)).type == "cuda"
        self.size = windows_at_once(
            usable - (sums if on_device else 0), needed, self.plan.row, math.prod(self.plan.roi)
        )
        self.automatic = False
        return logits

    def _gather(self, windows: list[Window]) -> torch.Tensor:
        """Windows (N, C, *roi) on the device."""
        views = [self.plan.cut(self.volume, window) for window in windows]
        if self.device.type == "cuda" and self.volume.device.type == "cpu":
            staged = torch.empty((len(views), *views[0].shape), dtype=self.volume.dtype, pin_memory=True)
            for target, view in zip(staged, views, strict=True):
                target.copy_(view)
            assert self.copies is not None
            with torch.cuda.stream(self.copies):
                # The caching host allocator keeps the pinned memory until the copy is done.
                batch = staged.to(self.device, non_blocking=True)
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.copies)
            # Created on one stream and used on another: its memory must not be reused before both have finished.
            batch.record_stream(current)
            return batch
        return torch.stack(views).to(self.device)

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        if self.plan.flat:
            batch = batch.squeeze(-1)
        axes = [axis + 2 for axis in self.mirror_axes]
        if any(not 2 <= axis < batch.ndim for axis in axes):
            raise SettingError(
                f"mirror_axes {self.mirror_axes} must be axes 0 to {batch.ndim - 3} of the window"
            )
        flips = [f for n in range(len(axes) + 1) for f in itertools.combinations(axes, n)]
        if self.agreement is not None:
            self.agreement.begin()
        total = self._network(batch)
        for number, flip in enumerate(flips):
            # `flip` copies, so adding in place changes neither the network's output buffer nor its input.
            if number:
                total = self._network(batch.flip(flip)).flip(flip).float().add_(total)
            if self.agreement is not None:
                self.agreement.turn_back(flip)
        if len(flips) > 1:
            total.div_(len(flips))
        # Last of all: where memory runs out, these windows come again.
        if self.agreement is not None:
            self.agreement.end(self.plan.weights)
        return total.unsqueeze(-1) if self.plan.flat else total

    def _network(self, batch: torch.Tensor) -> torch.Tensor:
        # With gradients the sums would keep the graph of every window in memory.
        with torch.no_grad():
            logits = self.network(batch)
        fits = isinstance(logits, torch.Tensor) and logits.ndim == batch.ndim
        if not fits or logits.shape[2:] != batch.shape[2:] or len(logits) != len(batch):
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise SettingError(
                f"the network must return logits of the window's size {tuple(batch.shape[2:])}, not {found}, "
                f"for each of {len(batch)} windows"
            )
        return logits


def _padded(volume: torch.Tensor, pad: list[int], mode: str, value: float | Sequence[float]) -> torch.Tensor:
    """A volume (1, C, *spatial) with a margin, see `torch.nn.functional.pad`."""
    if mode != "constant":
        return F.pad(volume, pad, mode=mode)
    values = [value] if isinstance(value, (int, float)) else list(value)
    if len(set(values)) == 1:
        return F.pad(volume, pad, value=values[0])
    parts = zip(volume.split(1, dim=1), values, strict=True)
    return torch.cat([F.pad(part, pad, value=each) for part, each in parts], dim=1)


def longest(shape: Sequence[int]) -> int:
    """The axis with the most voxels."""
    return max(range(len(shape)), key=lambda axis: shape[axis])


def windows_at_once(usable: int, needed: int, row: int, voxels: int = 1) -> int:
    """Number of windows per forward pass.

    Args:
        usable: bytes of device memory that the network may use.
        needed: bytes that one window needed.
        row: number of windows in a row; more than two rows at once are not faster.
        voxels: number of voxels of a window.
    """
    # Only 70 % of the memory: it is fragmented, and workspaces do not grow in proportion to the batch.
    return max(1, min(int(0.7 * usable) // max(needed, 1), 2 * row, 32, ENOUGH_VOXELS // voxels))


def blending_device(device: torch.device, needed: int) -> torch.device:
    """`device` if `needed` bytes of sums fit there in addition to the network, else the CPU."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return device if needed < 0.5 * (free + cached) else torch.device("cpu")
