"""Measures the time of a training step: waiting for data, forward, backward, optimiser; patches per second."""

from __future__ import annotations

import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from pipelines.utils.ranks import world_size

PHASES = ("forward", "backward", "optimizer")
WAITS = 0.02
"""An iteration counts as one that waited for data if it waited more than this fraction of its time."""


class HostClock:
    """Takes times from the clock of the host, for a training on the CPU."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, first: Any, second: Any) -> float:
        return second - first

    def ready(self, mark: Any) -> bool:
        return True

    def release(self, marks: list[Any]) -> None:
        pass


class CudaClock:
    """Takes times as events in the stream of a GPU, which costs microseconds and never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[torch.cuda.Event] = []

    def mark(self) -> torch.cuda.Event:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        # The stream of the network's GPU, which need not be the current one.
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, first: Any, second: Any) -> float:
        return first.elapsed_time(second) / 1000

    def ready(self, mark: Any) -> bool:
        return mark.query()

    def release(self, marks: list[Any]) -> None:
        self._free += marks


class StepTimer:
    """Measures the phases of every iteration; `take` returns their means since the previous call.

    - `time/data`: waiting for the next batch, by the clock of the host;
    - `time/waiting_share`: fraction of the iterations that waited for data for more than 2% of their time (on CUDA:
      in which the GPU was idle for that long);
    - `time/forward`: copying the batch to the device, network and loss;
    - `time/backward`: gradients;
    - `time/optimizer`: clipping, optimiser step, schedule, weight average (0 while gradients accumulate).

    On CUDA the last three are measured on the GPU by events, so that the measurement never waits for the device.
    GPU and host work at the same time, so there the times need not add up to the time of an iteration.

    Args:
        device: device of the network.
    """

    def __init__(self, device: torch.device | str) -> None:
        where = torch.device(device)
        self.clock: HostClock | CudaClock = CudaClock(where) if where.type == "cuda" else HostClock()
        self._world = world_size()
        self._open: list[Any] = []
        self._done: list[list[Any]] = []
        self._waiting = 0.0
        self._data: list[float] = []
        self._patches = 0
        self._since = self._until = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        for event, handler in (
            (Events.EPOCH_STARTED, self.restart),
            (Events.GET_BATCH_STARTED, self._wait),
            (Events.GET_BATCH_COMPLETED, self._got),
            (Events.ITERATION_STARTED, self._mark),
            (IterationEvents.LOSS_COMPLETED, self._mark),
            (IterationEvents.BACKWARD_COMPLETED, self._mark),
            (IterationEvents.MODEL_COMPLETED, self._end),
        ):
            engine.add_event_handler(event, handler)

    def restart(self) -> None:
        """Discard the measurements since the last `take`, since the time between epochs is not training time."""
        self._done, self._data, self._patches = [], [], 0
        self._since = self._until = time.perf_counter()

    def take(self) -> dict[str, float]:
        """Seconds per iteration of each phase, and patches per second of all processes, since the last call.

        Empty if there was no iteration. On CUDA, iterations that the device has not finished are counted in the next
        call; call this after an operation that waits for the device anyway, such as reading the loss.
        """
        # Only until the end of the last iteration: a validation after it is not training time.
        seconds = self._until - self._since
        finished = [marks for marks in self._done if self.clock.ready(marks[-1])]
        values: dict[str, float] = {}
        if self._data and seconds > 0:
            values["time/data"] = sum(self._data) / len(self._data)
            values["patches_per_second"] = self._patches * self._world / seconds
        waited = [
            self.clock.seconds(marks[0], marks[1]) > WAITS * self.clock.seconds(marks[0], marks[-1])
            for marks in finished
        ]
        if waited:
            values["time/waiting_share"] = sum(waited) / len(waited)
        for index, phase in enumerate(PHASES, 1):
            spent = [self.clock.seconds(marks[index], marks[index + 1]) for marks in finished]
            if spent:
                values[f"time/{phase}"] = sum(spent) / len(spent)
        for marks in finished:
            self.clock.release(marks)
        left = self._done[len(finished) :]
        self.restart()
        self._done = left
        return values

    def _wait(self) -> None:
        self._open = [self.clock.mark()]
        self._waiting = time.perf_counter()

    def _got(self) -> None:
        self._data.append(time.perf_counter() - self._waiting)

    def _mark(self) -> None:
        self._open.append(self.clock.mark())

    def _end(self, engine: Engine) -> None:
        self._open.append(self.clock.mark())
        self._done.append(self._open)
        self._until = time.perf_counter()
        self._patches += len(engine.state.output[Keys.IMAGE])  # type: ignore[index, arg-type]


class Stopwatch:
    """Measures the duration of an engine's last run, such as a validation.

    Attributes:
        seconds: duration of the last run; None before the first.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._stop)

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _stop(self) -> None:
        self.seconds = time.perf_counter() - self._started
