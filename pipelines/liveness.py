"""Which process wrote something, whether it still lives, and locks that end with the process that holds them."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A lock on a file, held by one process at a time and gone with that process, however it ends.

    Record locks rather than `flock`: a forked worker that outlives its training must not hold the lock on.

    Args:
        path: of the lock file, made where absent.
    """

    # A record lock does not keep a process out of what it holds itself, and closing any handle drops it.
    _held: ClassVar[set[tuple[int, str]]] = set()
    _threads = threading.Lock()

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).absolute()
        self._handle: int | None = None

    @property
    def _name(self) -> tuple[int, str]:
        return os.getpid(), str(self.path)

    def take(self) -> bool:
        """Take the lock without waiting; False where somebody holds it.

        Raises:
            OSError: the folder is gone, or its file system knows no locks.
        """
        with Lock._threads:
            if self._name in Lock._held:
                return False
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock(handle)
            except (BlockingIOError, PermissionError):
                os.close(handle)
                return False
            except OSError:
                os.close(handle)
                raise
            self._handle = handle
            Lock._held.add(self._name)
            return True

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is not None and self._name in Lock._held:
            Lock._held.discard(self._name)
            os.close(self._handle)
        self._handle = None


if fcntl is not None:

    def _lock(handle: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:

    def _lock(handle: int) -> None:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]


def identity() -> dict[str, Any]:
    """What tells this process from every other one, on other machines and after a reboot too."""
    return {
        "host": platform.node(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "space": _process_space(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def gone(process: Mapping[str, Any]) -> bool:
    """Whether the process of an `identity()` has certainly ended.

    A process of another host or another container cannot be seen from here, so it counts as alive.
    """
    here = identity()
    if any(process.get(key) != here[key] for key in ("host", "machine", "space")):
        return False
    return process.get("boot") != here["boot"] or not _runs(process)


def alive(process: Mapping[str, Any]) -> bool:
    """Whether the process of an `identity()` is certainly running now, on this machine."""
    here = identity()
    return all(process.get(key) == here[key] for key in ("host", "machine", "space", "boot")) and _runs(
        process
    )


def _runs(process: Mapping[str, Any]) -> bool:
    started = _started(int(process.get("pid", -1)))
    return started is not None and started == process.get("started")


def _started(pid: int) -> float | None:
    """When a process began, in units that no change of the clock moves; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else float(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _process_space() -> str:
    """The namespace of process ids: two containers of one host count their processes apart."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
