"""Fewer threads where more of them only wait: found by timing the first steps, and again when steps get slow."""

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

# Steps timed with each number of threads; the median counts. One more before them warms up.
STEPS = 3
# What fewer threads have to save before they are taken.
WORTHWHILE = 0.9
# Steps that are so many times slower than they were when timed, in a row, are a reason to time anew.
SLOWER, SLOW_STEPS = 1.5, 5
# Seconds after which more threads are tried again, as the other program may have ended.
RETRY = 300.0


class ThreadTuner:
    """Chooses torch's number of threads on a CPU by what is faster.

    Where other programs want the same cores, a thread that has none keeps all others waiting at the end of every
    operation: a step can take five times as long on two threads as on one. So the first steps are timed with all
    threads and with half of them, down to one, and the fastest number stays, until steps get much slower or, where it
    is not all threads, for five minutes.

    Nothing is tried with a single thread, off a CPU, in deterministic mode (sums depend on the number of threads in
    their last bits), or where a person has set `OMP_NUM_THREADS`.

    Args:
        device: where the work is done.
        clock: seconds, for tests.
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
        """Around a piece of work that takes about the same time whenever it is done."""
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
        if len(times) < STEPS:
            return
        medians = {number: statistics.median(values) for number, values in self._times.items()}
        # Where half the threads are no faster, fewer still are not worth a try.
        if len(self._counts) > 1 and medians[count] == min(medians.values()):
            self._counts.pop(0)
            return
        best = min(medians, key=lambda number: (medians[number], -number))
        if medians[best] > WORTHWHILE * medians[self._most]:
            best = self._most
        torch.set_num_threads(best)
        self._expected, self._slow = medians[best], 0
        if best != self._most:
            self._until = self._clock() + RETRY
            logger.info(
                "threads: %d instead of %d, since a step takes %.2f s instead of %.2f: something else is using this "
                "machine's cores",
                best,
                self._most,
                medians[best],
                medians[self._most],
            )

    def _watch(self, seconds: float) -> None:
        assert self._expected is not None
        self._slow = self._slow + 1 if seconds > SLOWER * self._expected else 0
        if self._slow == SLOW_STEPS or self._clock() > self._until:
            self._begin()
            # Nothing needs to be made first this time.
            self._warm = True
