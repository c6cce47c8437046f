"""Temporary handlers for SIGTERM and Ctrl-C, and their effect on a training and its loader workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SAME_REQUEST_SECONDS = 3.0
"""Signals within this number of seconds count as one request: a batch system sends a signal to torchrun, which passes
it on, and also directly to the processes that torchrun started."""


class SignalHandler:
    """A temporary handler of one signal, used as a context manager or by `set` and `restore`.

    A signal that is ignored, as under nohup, stays ignored. Python allows handlers only in the main thread: in
    other threads nothing is set.

    Args:
        number: number of the signal.
        handler: called with the number and the frame, as by `signal.signal`.
    """

    def __init__(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.number = number
        self.is_set = False
        self._handler = handler
        self._before: Any = None

    def set(self) -> SignalHandler:
        """Set the handler if possible."""
        before = signal.getsignal(self.number)
        if threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN:
            # None means that the previous handler was not set by Python and cannot be restored.
            self._before = signal.SIG_DFL if before is None else before
            signal.signal(self.number, self._handler)
            self.is_set = True
        return self

    def restore(self) -> None:
        """Restore the previous handler."""
        if self.is_set:
            signal.signal(self.number, self._before)
            self.is_set = False

    def ignore(self) -> None:
        """Ignore the signal from now on, also after `restore`, if this handler is set."""
        if self.is_set:
            signal.signal(self.number, signal.SIG_IGN)
            self._before = signal.SIG_IGN

    def pass_on(self, frame: FrameType | None = None) -> None:
        """Call the previous handler; the system's default handler ends the process."""
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
    """SIGTERM and SIGINT (Ctrl-C) as a request to stop, which the training checks when stopping loses no work.

    Used as a context manager. The first signal is only recorded in `number`. At a second signal, or if `at_once` is
    set, the previous handler is called, which interrupts the current work. Under torchrun, further signals within
    `SAME_REQUEST_SECONDS` seconds after the first are ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once = False
        # Set while the requested checkpoint is written; signals are then ignored.
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
        """Stop now by calling the previous handler of the signal."""
        number = self.number if number is None else number
        assert number is not None
        for handler in self._handlers:
            if handler.is_set and handler.number == number:
                handler.pass_on()
                return
        # Another process of the training received the signal, while this process ignores it.
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
    """A handler by which SIGTERM raises SystemExit, so that a command can still summarise what was done."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    return SignalHandler(signal.SIGTERM, stop)


def outlive_signals(worker: int) -> None:
    """Keep a loader worker running if a signal is sent to its whole process group.

    Ctrl-C, systemd and batch systems send signals to the workers too. If these ended, the current iteration of the
    training would fail instead of ending with a checkpoint. A SIGTERM from the parent process still ends the worker,
    and torch ends it if the parent has ended. Windows does not send signals to groups.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # type: ignore[attr-defined]
        threading.Thread(target=_await_parent, name="signals", daemon=True).start()
    elif hasattr(os, "setpgrp"):
        # macOS does not provide the sender of a signal, but there signals are sent at most to a process group.
        os.setpgrp()


def _await_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():  # type: ignore[attr-defined]
        pass
    os._exit(0)


class Terminated(BaseException):
    """The process received SIGTERM."""


def raising_terminated() -> SignalHandler:
    """A handler by which SIGTERM raises `Terminated`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"signal {number}")

    return SignalHandler(signal.SIGTERM, stop)
