"""Who works on which case of an output folder, so that predictions that run at the same time share the cases."""

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
    """Cases that this process works on, each a lock on a file that goes with the claim or with the process.

    Where nothing can be locked every case counts as claimed by whoever asks: two predictions at once then do
    it twice, as whole files that replace each other.

    Args:
        folder: for the lock files, made and removed as needed.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._locks: dict[str, Lock] = {}

    def take(self, case: str) -> bool:
        """Claim a case without waiting; False where another process has it."""
        if case in self._locks:
            return True
        path = self.folder / f"{case}.lock"
        while True:
            lock = Lock(path)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not lock.take():
                    return False
            except FileNotFoundError:  # another process tidied up in between
                continue
            except OSError as error:
                logger.warning(
                    "%s cannot be locked (%s): start no second prediction into this folder",
                    self.folder,
                    error.strerror or error,
                )
                return True
            if lock.is_current():
                self._locks[case] = lock
                return True
            lock.release()

    def wait(self, case: str) -> None:
        """Claim a case as soon as nobody else has it."""
        while not self.take(case):
            time.sleep(_PAUSE)

    def release(self, case: str) -> None:
        """Give a case back, and remove the traces of the claim."""
        lock = self._locks.pop(case, None)
        if lock is None:
            return
        # While it is still held: whoever has the old file open then sees that it is not the file of this name.
        with contextlib.suppress(OSError):  # on Windows a file that is open stays, for the next to use
            lock.path.unlink()
        lock.release()
        with contextlib.suppress(OSError):  # other cases are claimed
            self.folder.rmdir()

    @contextlib.contextmanager
    def held(self, case: str) -> Iterator[None]:
        """Have a claim within the block, waited for."""
        self.wait(case)
        try:
            yield
        finally:
            self.release(case)
