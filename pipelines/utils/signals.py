"""When a training ends before its last epoch: no more progress, or somebody asks it to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SAME_REQUEST_SECONDS = 3.0
"""Seconds in which several signals are one: batch systems send theirs to torchrun, which passes it on, and to all it
has started."""


class StopRequest:
    """SIGTERM and SIGINT (Ctrl-C) as a request that is heard where stopping loses nothing.

    Used as a context. The first signal is only noted, `number` says which; with `at_once` set, and at a second
    signal, the handler that was there before is called, which ends what is going on. Under torchrun a second signal
    counts as one only `SAME_REQUEST_SECONDS` seconds later.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once = False
        # While what it asked for is written, no signal counts.
        self.busy = False
        self._before: dict[int, Any] = {}
        self._first = 0.0
        self._apart = SAME_REQUEST_SECONDS if "RANK" in os.environ else 0.0

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

    def end_now(self, number: int | None = None) -> None:
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
            self.end_now()


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM ends the loop like an interruption by hand, so that what was done is still summed up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def outlive_signals(worker: int) -> None:
    """Let a loader worker go on when a whole group of processes is asked to end, for the trainer to stop well.

    Ctrl-C, systemd and batch systems signal the workers too. Without them the iteration that is going on would
    fail instead of ending in a checkpoint. The parent's own SIGTERM is obeyed; a dead parent is noticed by torch.
    Windows sends none to a group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # type: ignore[attr-defined]
        threading.Thread(target=_await_parent, name="signals", daemon=True).start()
    elif hasattr(os, "setpgrp"):
        # macOS does not tell who sent a signal, but has nothing that signals more than a group.
        os.setpgrp()


def _await_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():  # type: ignore[attr-defined]
        pass
    os._exit(0)


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"signal {number}")
