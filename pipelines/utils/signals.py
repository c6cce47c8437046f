"""What SIGTERM and Ctrl-C do: handlers that are set for a while, and what they mean to a training and its workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SAME_REQUEST_SECONDS = 3.0
"""Seconds in which several signals are one: batch systems send theirs to torchrun, which passes it on, and to all it
has started."""


class SignalHandler:
    """A handler of one signal, in place of the one before; used as a context, or by `set` and `restore`.

    A signal that is ignored, as under nohup, stays ignored. Python sets handlers in the main thread alone: from
    another one nothing is set.

    Args:
        number: of the signal.
        handler: called with the number and the frame, as by `signal.signal`.
    """

    def __init__(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.number = number
        self.is_set = False
        self._handler = handler
        self._before: Any = None

    def set(self) -> SignalHandler:
        """Handle the signal from now on, where that can be."""
        before = signal.getsignal(self.number)
        if threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN:
            # None is a handler that was not set from Python, which Python cannot set again.
            self._before = signal.SIG_DFL if before is None else before
            signal.signal(self.number, self._handler)
            self.is_set = True
        return self

    def restore(self) -> None:
        """Let the handler of before have the signal again."""
        if self.is_set:
            signal.signal(self.number, self._before)
            self.is_set = False

    def ignore(self) -> None:
        """Ignore the signal where this handler is set, also after `restore`."""
        if self.is_set:
            signal.signal(self.number, signal.SIG_IGN)
            self._before = signal.SIG_IGN

    def pass_on(self, frame: FrameType | None = None) -> None:
        """Do what the handler of before does; the system's own ends the process."""
        if callable(self._before):
            self._before(self.number, frame)
        elif self._before is signal.SIG_DFL:
            self.restore()
            signal.raise_signal(self.number)

    def __enter__(self) -> SignalHandler:
        return self.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


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
        self._handlers = [SignalHandler(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)]
        self._first = 0.0
        self._apart = SAME_REQUEST_SECONDS if "RANK" in os.environ else 0.0

    def __enter__(self) -> StopRequest:
        for handler in self._handlers:
            handler.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            handler.restore()

    def end_now(self, number: int | None = None) -> None:
        """End now as the signal asks, by its handler of before."""
        number = self.number if number is None else number
        assert number is not None
        for handler in self._handlers:
            if handler.is_set and handler.number == number:
                handler.pass_on()
                return
        # Another process of the training heard it, and here it was ignored.
        signal.default_int_handler(number, None)

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


def terminating() -> SignalHandler:
    """SIGTERM ends the loop like an interruption by hand, so that what was done is still summed up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    return SignalHandler(signal.SIGTERM, stop)


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


def raising_terminated() -> SignalHandler:
    """SIGTERM raises `Terminated`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"signal {number}")

    return SignalHandler(signal.SIGTERM, stop)
