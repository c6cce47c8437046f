"""Time within a network, and the time in which a GPU computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType

# Events of a device in the profiler that are not kernels: copies, fills, waiting.
_NO_KERNELS = ("Memcpy", "Memset", "Stream", "Context", "Event", "Activity")


class Timed:
    """A network that sums the time of its forward passes; on CUDA that of the device, by events, without waiting."""

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self.network, self.cuda = network, device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.cuda:
            start = time.perf_counter()
            result = self.network(x)
            self._seconds += time.perf_counter() - start
            return result
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        result = self.network(x)
        last.record()
        self._events.append((first, last))
        return result

    @property
    def seconds(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return self._seconds + sum(first.elapsed_time(last) for first, last in self._events) / 1000


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, stop)."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def kernel_seconds(run: Callable[[], object]) -> float:
    """Seconds in which at least one kernel was running during `run`; 0 if kernels cannot be traced.

    Profiling slows down the host but not the kernels, so divide by the wall time of a run without profiling.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        torch.cuda.synchronize()
    kernels = (
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(_NO_KERNELS)
    )
    return union(kernels) / 1e6
