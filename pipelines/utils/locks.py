"""Locks on files that end with the process that holds them, however it ends, on every system.

Record locks rather than `flock`, which `filelock` takes: a lock of that kind is shared with every process that was
forked meanwhile, so that a loader worker that outlives its killed training for some seconds would hold it on.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from transforms.errors import UserError

_PAUSE = 0.05


class NoLocksError(UserError, OSError):
    """The file system, or the system itself, knows no locks on files."""


class Lock:
    """A lock on a file, held by one process at a time and gone with that process.

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
            NoLocksError: there is a file, but it cannot be locked.
            OSError: the file cannot be made: the folder is gone, or nothing may be written there.
        """
        with Lock._threads:
            if self._name in Lock._held:
                return False
            # Several users may share a folder; the umask says whether they do.
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                taken = _lock(handle)
            except OSError as error:
                os.close(handle)
                raise NoLocksError(error.errno, error.strerror, str(self.path)) from error
            if not taken:
                os.close(handle)
                return False
            self._handle = handle
            Lock._held.add(self._name)
            return True

    def is_current(self) -> bool:
        """Whether the file that is locked still is the one of that name, and nobody removed it meanwhile."""
        if self._handle is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def note(self) -> bytes:
        """What its holders have written into the file; nothing where this process does not hold it."""
        if self._handle is None:
            return b""
        os.lseek(self._handle, 0, os.SEEK_SET)
        return os.read(self._handle, 1 << 16)

    def write_note(self, content: bytes) -> None:
        """Write something into the file for those who hold the lock after this process; nothing where it is not held.

        Raises:
            OSError: the disk is full, or the like.
        """
        if self._handle is None:
            return
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, content)

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is not None and self._name in Lock._held:
            Lock._held.discard(self._name)
            os.close(self._handle)
        self._handle = None


@contextlib.contextmanager
def waiting_for(
    path: str | os.PathLike,
    timeout: float = math.inf,
    busy: Callable[[], None] | None = None,
    unlocked: Callable[[OSError], None] | None = None,
) -> Iterator[bool]:
    """Hold the lock on a file within the block, waited for as long as others have it.

    The block is entered in any case: what it does has to be right without the lock too, if less orderly.

    Args:
        path: of the lock file, see `Lock`.
        timeout: seconds to wait at most.
        busy: called once if there is anything to wait for.
        unlocked: called with the reason where the file cannot be locked.

    Yields:
        Whether the lock is held.
    """
    lock, deadline = Lock(path), time.monotonic() + timeout
    taken = said = False
    try:
        while not (taken := lock.take()) and time.monotonic() < deadline:
            if busy is not None and not said:
                busy()
            said = True
            time.sleep(_PAUSE)
    except OSError as error:
        if unlocked is not None:
            unlocked(error)
    try:
        yield taken
    finally:
        lock.release()


def _lock(handle: int) -> bool:
    """Lock a file without waiting; False where another process has it."""
    try:
        if hasattr(os, "lockf"):
            os.lockf(handle, os.F_TLOCK, 0)  # type: ignore[attr-defined]
        else:
            _lock_on_windows(handle)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_on_windows(handle: int) -> None:
    try:
        import msvcrt
    except ImportError as error:
        raise OSError(errno.ENOSYS, "this system has no locks on files") from error
    msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
