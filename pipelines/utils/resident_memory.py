"""How much of the machine's memory this process holds, and the most that it held."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["PeakMemory", "forget_peak", "resident"]

INTERVAL = 0.005
"""Seconds between two looks where the system keeps no peak."""


def resident(figure: str = "VmRSS") -> int:
    """Bytes of this process in memory on Linux; "VmHWM" is the peak since `forget_peak`."""
    return 1024 * int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{figure}:")[1].split()[0])


def forget_peak() -> None:
    """Set the peak of the resident set back to what it is now (Linux 4.0 and later).

    Raises:
        OSError: this system has no such file, or refuses.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class PeakMemory:
    """The most memory that this process held inside of a `with`.

    Linux knows the peak itself. Elsewhere, and where it may not be set back, a thread looks every 5 ms, so that a
    shorter peak is missed.

    Args:
        sampled: let the thread look anyway.

    Attributes:
        bytes: the peak, once the `with` has ended.

    Examples:
        >>> with PeakMemory() as peak:
        ...     data = bytes(1)
        >>> peak.bytes > 0
        True
    """

    def __init__(self, sampled: bool = False) -> None:
        self.bytes = 0
        self._sampled = sampled
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if not self._sampled:
            try:
                forget_peak()
                return self
            except OSError:
                self._sampled = True
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            self.bytes = resident("VmHWM")
            return
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._over.wait(INTERVAL):
                return
