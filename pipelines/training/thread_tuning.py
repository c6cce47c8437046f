"""Chooses the number of CPU threads by timing the first steps, and again when steps become slow."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from pipelines.utils.cores import VARIABLES

__all__ = ["ThreadTuner"]

logger = logging.getLogger(__name__)

# Steps timed with each number of threads, of which the median is used; one untimed warm-up step comes first.
STEPS = 3
# Fewer threads are used only if their step takes less than this fraction of the time with all threads.
WORTHWHILE = 0.9
# The timing is repeated after SLOW_STEPS consecutive steps that each take more than SLOWER times the timed median.
SLOWER, SLOW_STEPS = 1.5, 5
# Seconds after which all threads are tried again, as the other program may have ended: at first, and at most. They are
# doubled each time that a single step shows that it has not.
FIRST_RETRY, RETRY = 20.0, 300.0


class ThreadTuner:
    """Chooses the fastest number of torch threads on a CPU.

    If other programs use the same cores, a thread that has to wait for a core delays all other threads at the end of
    every operation: a step can take five times as long with two threads as with one. Therefore the first steps are
    timed with all threads, then with half of them, and so on down to one thread, until fewer are no faster. The
    fastest number is used until steps become much slower; if it is less than all threads, these are tried again after
    20 seconds, and then less and less often, up to every five minutes.

    The number of threads is not changed if there is only one, on a GPU, in deterministic mode (the last bits of sums
    depend on the number of threads), or if the user has set `OMP_NUM_THREADS`.

    Args:
        device: device of the computation.
        clock: returns the time in seconds; another one is given only in tests.
    """

    def __init__(self, device: torch.device | str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._most = torch.get_num_threads()
        self.active = (
            torch.device(device).type == "cpu"
            and self._most > 1
            and not torch.are_deterministic_algorithms_enabled()
            and not any(os.environ.get(name) for name in VARIABLES)
        )
        self._pause = FIRST_RETRY
        # The number of threads that was chosen, and the seconds of its step, while more are tried again.
        self._fewer: tuple[int, float] | None = None
        self._begin()

    def _begin(self) -> None:
        self._times: dict[int, list[float]] = {}
        self._counts = [self._most]
        while self._counts[-1] > 1:
            self._counts.append(self._counts[-1] // 2)
        self._warm = False
        self._expected: float | None = None
        self._until = math.inf
        self._slow = 0

    @property
    def settled(self) -> bool:
        """Whether the number of threads has been chosen, until something changes."""
        return not self.active or self._expected is not None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Context around one step; all steps must take about the same time."""
        if not self.active:
            yield
            return
        if self._expected is None:
            torch.set_num_threads(self._counts[0])
        started = self._clock()
        yield
        self._note(self._clock() - started)

    def _note(self, seconds: float) -> None:
        if self._expected is not None:
            self._watch(seconds)
        elif not self._warm:
            self._warm = True
        else:
            self._compare(seconds)

    def _compare(self, seconds: float) -> None:
        count = self._counts[0]
        times = self._times.setdefault(count, [])
        times.append(seconds)
        if self._fewer is not None and count == self._most and seconds * WORTHWHILE > self._fewer[1]:
            self._settle(*self._fewer)
            return
        if len(times) < STEPS:
            return
        medians = {number: statistics.median(values) for number, values in self._times.items()}
        # If half the threads are not faster, an even smaller number is not tried.
        if len(self._counts) > 1 and medians[count] == min(medians.values()):
            self._counts.pop(0)
            return
        best = min(medians, key=lambda number: (medians[number], -number))
        if medians[best] > WORTHWHILE * medians[self._most]:
            best = self._most
        if best != self._most:
            logger.info(
                "threads: %d instead of %d, since a step then takes %.2f s instead of %.2f s; another program is using "
                "the CPU cores of this machine",
                best,
                self._most,
                medians[best],
                medians[self._most],
            )
        elif self._fewer is not None:
            logger.info("threads: %d again, since a step then takes %.2f s", best, medians[best])
        self._settle(best, medians[best])

    def _settle(self, count: int, seconds: float) -> None:
        """Use a number of threads, whose step takes so many seconds, from now on."""
        torch.set_num_threads(count)
        self._expected, self._slow = seconds, 0
        if count == self._most:
            self._fewer, self._pause = None, FIRST_RETRY
            return
        self._fewer = count, seconds
        self._until = self._clock() + self._pause
        self._pause = min(2 * self._pause, RETRY)

    def _watch(self, seconds: float) -> None:
        assert self._expected is not None
        self._slow = self._slow + 1 if seconds > SLOWER * self._expected else 0
        if self._slow == SLOW_STEPS:
            self._fewer = None
        if self._slow == SLOW_STEPS or self._clock() > self._until:
            self._begin()
            # No warm-up step is needed this time.
            self._warm = True
