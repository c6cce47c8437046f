"""When a training ends before its last epoch: no more progress, or somebody asks it to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

ONE_WISH = 3.0
"""Seconds in which several signals are one: batch systems send theirs to torchrun, which passes it on, and to all it
has started."""


class StoppingError(ValueError):
    """The knobs of early stopping ask for something that cannot be."""


class EarlyStopping:
    """Stop after `patience` validations in a row without a better mean Dice.

    A validation is better if its Dice exceeds the best one before by more than `min_delta`. The answer follows
    from the Dice of all validations so far and from nothing else, so a resumed training counts on.

    Args:
        patience: validations without progress; None never stops.
        min_delta: what counts as progress, in Dice.

    Raises:
        StoppingError: patience is below 1 or min_delta below 0.
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise StoppingError(
                f"patience is {patience}; give a number of validations from 1, or '$None' to train all epochs"
            )
        if not min_delta >= 0:
            raise StoppingError(f"min_delta is {min_delta}; give the Dice that counts as progress, 0 or more")
        self.patience = patience
        self.min_delta = float(min_delta)

    def waited(self, dice: Iterable[float]) -> int:
        """Validations since the last progress, given the mean Dice of each in order; NaN is no progress."""
        best, count = float("-inf"), 0
        for value in dice:
            if value > best + self.min_delta:
                best, count = value, 0
            else:
                count += 1
        return count

    def reached(self, dice: Iterable[float]) -> bool:
        """Whether a training with these validations is to stop."""
        return self.patience is not None and self.waited(dice) >= self.patience


class StopRequest:
    """SIGTERM and SIGINT (Ctrl-C) as a request that is heard where stopping loses nothing.

    Used as a context. The first signal is only noted, `number` says which; with `at_once` set, and at a second
    signal, the handler that was there before is called, which ends what is going on. Under torchrun a second signal
    counts as one only `ONE_WISH` seconds later.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once = False
        # While what it asked for is written, no signal counts.
        self.busy = False
        self._before: dict[int, Any] = {}
        self._first = 0.0
        self._apart = ONE_WISH if "RANK" in os.environ else 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if callable(before):  # what is ignored, as under nohup, stays ignored
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def obey(self, number: int | None = None) -> None:
        """End now as the signal asks, by its handler of before."""
        number = self.number if number is None else number
        assert number is not None
        before = self._before.get(number, signal.default_int_handler)
        before(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.number is not None
        if self.busy or (again and now - self._first < self._apart):
            return
        self.number = number
        if not again:
            self._first = now
        if again or self.at_once:
            self.obey()
