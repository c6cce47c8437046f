"""File locks that the operating system releases when their process ends, also if it is killed.

They are record locks. `filelock` uses `flock` instead, whose locks are inherited by forked processes: a loader worker
that runs for some seconds after its training was killed would still hold the lock.
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
    """The file system or the operating system does not support file locks."""


class Lock:
    """A lock on a file, held by one process at a time and released when that process ends.

    Args:
        path: path of the lock file, which is created if it does not exist.
    """

    # A process can take its own record lock again, and closing any handle of the file releases it; hence this list.
    _held: ClassVar[set[tuple[int, str]]] = set()
    _threads = threading.Lock()

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).absolute()
        self._handle: int | None = None

    @property
    def _name(self) -> tuple[int, str]:
        return os.getpid(), str(self.path)

    def take(self) -> bool:
        """Take the lock without waiting; False if it is already held.

        Raises:
            NoLocksError: the file cannot be locked.
            OSError: the file cannot be created: the folder does not exist or cannot be written to.
        """
        with Lock._threads:
            if self._name in Lock._held:
                return False
            # Writable for all users as far as the umask allows, because several users may share the folder.
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
        """Whether the locked file still exists under its path, and was not removed or replaced."""
        if self._handle is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def note(self) -> bytes:
        """The content that holders of the lock have written to the file; empty if this process does not hold it."""
        if self._handle is None:
            return b""
        os.lseek(self._handle, 0, os.SEEK_SET)
        return os.read(self._handle, 1 << 16)

    def write_note(self, content: bytes) -> None:
        """Write content for later holders of the lock to the file; does nothing if the lock is not held.

        Raises:
            OSError: the file cannot be written, for example because the disk is full.
        """
        if self._handle is None:
            return
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, content)

    def release(self) -> None:
        """Release the lock."""
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
    """Wait for the lock on a file and hold it during the block.

    The block is also entered without the lock, after a timeout or if locks are not supported; its result must be
    correct in that case too.

    Args:
        path: path of the lock file, see `Lock`.
        timeout: maximum number of seconds to wait.
        busy: called once if another process holds the lock.
        unlocked: called with the error if the file cannot be locked.

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
    """Lock a file without waiting; False if another process has locked it."""
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
