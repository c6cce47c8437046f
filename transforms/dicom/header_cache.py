"""The headers that were parsed last, so that who asks for one again need not have it parsed again."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from transforms.dicom.frame import FileState, Frame

__all__ = ["HeaderCache"]

_FRESH_NS = 2_000_000_000
"""A file that changed less than this before it was read may change again and keep its time: FAT counts in 2 s."""


class HeaderCache:
    """The frames of files by path and state, up to a number of frames; those not asked for longest go first.

    Args:
        most: so many frames are kept (a header of a CT takes some 40 KB in memory).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._kept: OrderedDict[tuple[Path, FileState], list[Frame]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, state: FileState) -> list[Frame] | None:
        """The frames of a file that has not changed since; None where they are not known."""
        with self._lock:
            found = self._kept.get((path, state))
            if found is not None:
                self._kept.move_to_end((path, state))
            return found

    def put(self, path: Path, state: FileState, frames: list[Frame]) -> None:
        """Keep the frames of a file, unless the file is so new that a change might not show."""
        if time.time_ns() - state[0] < _FRESH_NS:
            return
        with self._lock:
            self._count += _weight(frames) - _weight(self._kept.pop((path, state), None))
            self._kept[path, state] = frames
            while self._count > self._most and len(self._kept) > 1:
                self._count -= _weight(self._kept.popitem(last=False)[1])


def _weight(frames: list[Frame] | None) -> int:
    """What counts for a file: its frames, and one for a file that is no DICOM."""
    return 0 if frames is None else max(1, len(frames))
