"""Locks on the cases of an output folder, by which predictions that run at the same time divide the cases."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.utils.locks import Lock

logger = logging.getLogger(__name__)

_PAUSE = 0.05


class Claims:
    """Cases that this process works on, each with a file lock that ends with the claim or with the process.

    On a file system without locks every claim succeeds: two predictions at the same time then both predict the case,
    and their complete files replace each other.

    Args:
        folder: folder of the lock files, created and removed as needed.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._locks: dict[str, Lock] = {}

    def take(self, case: str) -> bool:
        """Claim a case without waiting; False if another process has it."""
        if case in self._locks:
            return True
        path = self.folder / f"{case}.lock"
        while True:
            lock = Lock(path)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not lock.take():
                    return False
            except FileNotFoundError:  # another process has removed the folder in between
                continue
            except OSError as error:
                logger.warning(
                    "%s cannot be locked (%s); do not start a second prediction into this folder",
                    self.folder,
                    error.strerror or error,
                )
                return True
            if lock.is_current():
                self._locks[case] = lock
                return True
            lock.release()

    def wait(self, case: str) -> None:
        """Claim a case, waiting until no other process has it."""
        while not self.take(case):
            time.sleep(_PAUSE)

    def release(self, case: str) -> None:
        """Release the claim on a case and remove its lock file."""
        lock = self._locks.pop(case, None)
        if lock is None:
            return
        # Removed while it is locked: a process that has the old file open then finds that the name is another file.
        with contextlib.suppress(OSError):  # Windows does not remove an open file; the next claim uses it
            lock.path.unlink()
        lock.release()
        with contextlib.suppress(OSError):  # other cases are claimed
            self.folder.rmdir()

    @contextlib.contextmanager
    def held(self, case: str) -> Iterator[None]:
        """Context in which this process has the claim on a case; waits for the claim."""
        self.wait(case)
        try:
            yield
        finally:
            self.release(case)
