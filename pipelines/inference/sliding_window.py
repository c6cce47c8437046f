"""Sliding-window inference: applies a network that takes patches to a whole volume."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from pipelines.inference.pass_agreement import PassAgreement
from pipelines.inference.precision import autocast, resolve_precision
from pipelines.inference.windows import (
    Batches,
    InferenceMemoryError,
    Network,
    Plan,
    Window,
    blending_device,
    longest,
)
from transforms.dictionary import PADDING
from transforms.errors import SettingError
from transforms.utils.memory import is_out_of_memory

__all__ = ["InferenceMemoryError", "SlidingWindow"]


class SlidingWindow(Inferer):
    """Logits of a whole volume from overlapping windows, blended with Gaussian weights.

    The windows and their weights, and therefore the result, are those of MONAI's SlidingWindowInferer, but less memory
    is needed: `rows` moves through the volume along one axis and yields rows of voxels as soon as no further window
    covers them, so that the logits of only one row of windows are in memory at a time.

    A 2D window is applied to a 3D volume axial slice by axial slice. No gradients are computed.

    Args:
        roi_size: size of the window, the patch size of the training; 0, negative or None for the full extent of an
            axis.
        sw_batch_size: windows per forward pass; None is as many as fit in the memory of a CUDA device, and 1 on other
            devices.
        overlap: fraction of a window that its neighbour also covers, 0 to below 1; one number or one per axis.
        mode: "gaussian" or "constant" weights.
        sigma_scale: standard deviation of the Gaussian as a fraction of the window size.
        padding_mode: padding of a volume smaller than the window, see torch.nn.functional.pad.
        cval: value of the padding with padding_mode "constant" (air).
        sw_device: device of the network; None for the device of its weights or, without weights, of the volume. The
            volume may stay on the CPU: windows are copied while the device computes.
        device: device on which windows are blended; None for `sw_device`, or the CPU if its memory is too small.
        progress: whether to show the progress of the windows, see `pipelines.utils.progress`. Within other work that
            shows its progress, it is shown anyway for a volume that takes long.
        mirror_axes: spatial axes (0, 1, 2) along which test-time augmentation mirrors each window; the logits of all
            combinations are averaged. Use only axes along which the training mirrored too.
        precision: "fp32", "bf16", "fp16" or "auto" for the forward passes where this is called by itself, as MONAI's
            tools do; None leaves that to the caller. `rows` always does.

    Raises:
        SettingError: an argument is out of its range.

    Examples:
        >>> window = SlidingWindow(roi_size=(16, 16, 16), overlap=0.5)
        >>> network = torch.nn.Conv3d(1, 3, kernel_size=1)
        >>> window(torch.zeros(1, 1, 40, 30, 20), network).shape
        torch.Size([1, 3, 40, 30, 20])
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
        precision: str | None = None,
    ) -> None:
        self.roi_size = roi_size if isinstance(roi_size, int) else tuple(int(n or 0) for n in roi_size)
        if sw_batch_size is not None and sw_batch_size < 1:
            raise SettingError(f"sw_batch_size is {sw_batch_size}; give a number of windows, 1 or more")
        self.overlap = overlap if isinstance(overlap, (int, float)) else tuple(float(o) for o in overlap)
        overlaps = (self.overlap,) if isinstance(self.overlap, (int, float)) else self.overlap
        if not all(0 <= o < 1 for o in overlaps):
            raise SettingError(f"overlap is {overlap}; give a fraction of the window, 0 or more and below 1")
        if mode not in ("gaussian", "constant"):
            raise SettingError(f"mode is '{mode}'; give 'gaussian' or 'constant'")
        self.sw_batch_size = sw_batch_size
        self.mode = mode
        self.sigma_scale = sigma_scale
        self.padding_mode = padding_mode
        self.cval = float(cval)
        self.sw_device = None if sw_device is None else torch.device(sw_device)
        self.device = None if device is None else torch.device(device)
        self.progress = progress
        self.mirror_axes = tuple(int(axis) for axis in mirror_axes)
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, C, *spatial) to logits (B, classes, *spatial) in float32; a MetaTensor keeps its meta data.

        What lies around a volume is taken from its meta data, where `transforms.ToNetworkGridd` left it.

        Raises:
            SettingError, InferenceMemoryError: see `rows`.
        """
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        shape = volumes.shape[2:]
        axis = longest(shape)
        if isinstance(inputs, MetaTensor) and len(inputs) == 1 and PADDING in inputs.meta:
            kwargs = {"cval": inputs.meta[PADDING], **kwargs}
        result: torch.Tensor | None = None
        with self._numbers(_device_of(network) or volumes.device):
            for number in range(len(volumes)):
                start = 0
                for rows in self.rows(volumes[number : number + 1], network, axis, True, *args, **kwargs):
                    if result is None:
                        result = self._empty((len(volumes), len(rows), *shape), rows.device)
                    stop = start + rows.shape[axis + 1]
                    result[number].narrow(axis + 1, start, stop - start).copy_(rows)
                    start = stop
        if result is None:
            raise SettingError(f"there is no volume in a batch of shape {tuple(inputs.shape)}")
        if isinstance(inputs, MetaTensor):
            return MetaTensor(result).copy_meta_from(inputs, copy_attr=False)
        return result

    def _numbers(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The number format of the forward passes."""
        if self.precision is None:
            return contextlib.nullcontext()
        return autocast(device, resolve_precision(self.precision, device))

    def _empty(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Memory for the logits of whole volumes; on the CPU if the device is full and was not given explicitly."""
        if self.device is None:
            try:
                return torch.empty(shape, device=device)
            except RuntimeError as error:
                if device.type == "cpu" or not is_out_of_memory(error):
                    raise
        return torch.empty(shape, device=self.device or "cpu")

    def rows(
        self,
        inputs: torch.Tensor,
        network: Network,
        axis: int | None = None,
        normalise: bool = True,
        *args: Any,
        cval: float | Sequence[float] | None = None,
        agreement: PassAgreement | None = None,
        **kwargs: Any,
    ) -> Iterator[torch.Tensor]:
        """Blended logits of one volume, in blocks of finished rows along one axis.

        Args:
            inputs: volume (1, C, *spatial).
            network: called with windows (N, C, *roi_size) and the remaining arguments; must return logits
                (N, classes, *roi_size).
            axis: spatial axis along which the rows are yielded; the longest by default.
            normalise: divide by the sum of weights. Without it the logits of each voxel are scaled by a
                positive number, which does not change the class with the largest logit.
            cval: value of the padding for this volume, instead of the constructor's; one value, or one per channel.
            agreement: collects the votes of all passes over each window; must be listening to the network.

        Yields:
            Tensors (classes, *spatial), float32, each a part of the volume along `axis`; together they are the whole
            volume. Each is valid only until the next one is requested.

        Raises:
            SettingError: the number of axes of volume and window differ, or the network does not return logits of
                the window's size for each window.
            InferenceMemoryError: a single window does not fit in the memory of the device.
        """
        if inputs.shape[0] != 1:
            raise SettingError(f"rows() takes one volume at a time, not a batch of {inputs.shape[0]}")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plan = self._plan(volume, axis)
        batches = Batches(
            plan,
            volume,
            lambda windows: network(windows, *args, **kwargs),
            self.sw_device or _device_of(network) or volume.device,
            size=self.sw_batch_size,
            padding_mode=self.padding_mode,
            cval=self.cval if cval is None else cval,
            mirror_axes=self.mirror_axes,
            blending=self.device,
            progress=self.progress,
            agreement=agreement,
        )
        slab: _Slab | None = None
        for window, logits in batches:
            if slab is None:
                slab = _slab(plan, logits, normalise, self.device)
                batches.make_room = slab.to_host
                batches.blended_on_host = slab.on_host
            yield from slab.up_to(window.start[plan.axis])
            slab.add(window, logits)
            # Otherwise these logits stay in memory while the network computes the next.
            del logits
        assert slab is not None
        yield from slab.up_to(None)

    def passes(self, inputs: torch.Tensor) -> int:
        """How many windows of a volume (1, C, *spatial) go through the network, mirrored ones counted."""
        return len(self._plan(inputs, None).windows) * 2 ** len(self.mirror_axes)

    def some_windows(
        self, inputs: torch.Tensor, count: int, cval: float | Sequence[float] | None = None
    ) -> list[torch.Tensor]:
        """Up to `count` windows of a volume (1, C, *spatial) as the network gets them, spread evenly around its middle.

        Args:
            inputs, cval: see `rows`.
        """
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plan = self._plan(volume, None)
        padded = plan.padding(volume, self.padding_mode, self.cval if cval is None else cval)
        total = len(plan.windows)
        chosen = sorted({int((number + 0.5) * total / count) for number in range(count)})
        found = [plan.cut(padded[0], plan.windows[index])[None] for index in chosen]
        return [window.squeeze(-1) for window in found] if plan.flat else found

    def _plan(self, volume: torch.Tensor, axis: int | None) -> Plan:
        return Plan(volume.shape[2:], self.roi_size, self.overlap, self.mode, self.sigma_scale, axis)


def _device_of(network: Network) -> torch.device | None:
    parameters = network.parameters() if isinstance(network, torch.nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


def _slab(plan: Plan, logits: torch.Tensor, normalise: bool, device: torch.device | None) -> _Slab:
    """A `_Slab` for windows like `logits`; on the CPU if the device is full."""
    try:
        return _Slab(plan, logits, normalise, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return _Slab(plan, logits, normalise, torch.device("cpu"))


class _Slab:
    """Sums of weighted logits of the rows that further windows may still cover.

    All its memory is allocated by the constructor.
    """

    def __init__(
        self, plan: Plan, logits: torch.Tensor, normalise: bool, device: torch.device | None
    ) -> None:
        self.plan, self.axis = plan, plan.axis
        extent, classes = plan.slab, len(logits)
        voxels = torch.Size(extent).numel()
        device = device or blending_device(logits.device, 4 * (classes + 1) * voxels)
        # In the memory format of the logits: adding tensors of different formats is several times slower.
        last = logits.ndim > 1 and logits.stride(0) == 1 and classes > 1
        if last:
            self.sums = torch.zeros((*extent, classes), device=device).movedim(-1, 0)
        else:
            self.sums = torch.zeros((classes, *extent), device=device)
        self.weights = plan.weights.to(device)
        self.counts = torch.zeros(extent, device=device) if normalise else None
        # Always float32: sums in half precision would change labels. One buffer for all windows: on a CPU, allocating
        # new memory takes longer than the arithmetic.
        self.buffer = (
            None
            if logits.dtype == torch.float32
            else torch.empty_like(logits, dtype=torch.float32, device=self.sums.device)
        )
        self.first = 0

    def on_host(self) -> bool:
        return self.sums.device.type == "cpu"

    def to_host(self) -> bool:
        """Move to the CPU; False if it is already there."""
        if self.on_host():
            return False
        self.sums, self.weights = self.sums.cpu(), self.weights.cpu()
        self.counts = None if self.counts is None else self.counts.cpu()
        self.buffer = None if self.buffer is None else self.buffer.cpu()
        return True

    def add(self, window: Window, logits: torch.Tensor) -> None:
        at = [slice(start, start + size) for start, size in zip(window.start, self.plan.roi, strict=True)]
        at[self.axis] = slice(0, self.plan.roi[self.axis])
        # Converted to float32 only after the copy: the device may have no memory left for the conversion.
        logits = logits.to(self.sums.device)
        if logits.dtype != torch.float32:
            if self.buffer is None:
                self.buffer = torch.empty_like(logits, dtype=torch.float32)
            logits = self.buffer.copy_(logits)
        self.sums[(slice(None), *at)].addcmul_(logits, self.weights)
        if self.counts is not None:
            self.counts[tuple(at)] += self.weights

    def up_to(self, stop: int | None) -> Iterator[torch.Tensor]:
        """Yield the rows before `stop` of the padded volume, which no further window covers; all rows with None."""
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
