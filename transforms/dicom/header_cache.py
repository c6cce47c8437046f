"""Cache of the most recently used headers, which need not be parsed again."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from transforms.dicom.frame import FileState, Frame

__all__ = ["HeaderCache"]

_FRESH_NS = 2_000_000_000
"""A file read sooner than this after a change may change again with the same time stamp: FAT has a resolution of 2 s."""


class HeaderCache:
    """The frames of files by path and state; beyond a number of frames the least recently used are dropped.

    Args:
        most: number of frames to keep (a header of a CT takes some 40 KB in memory).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._kept: OrderedDict[tuple[Path, FileState], list[Frame]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, state: FileState) -> list[Frame] | None:
        """The frames of a file in this state; None if they are not in the cache."""
        with self._lock:
            found = self._kept.get((path, state))
            if found is not None:
                self._kept.move_to_end((path, state))
            return found

    def put(self, path: Path, state: FileState, frames: list[Frame]) -> None:
        """Keep the frames of a file, unless the file is so new that a change might go undetected."""
        if time.time_ns() - state[0] < _FRESH_NS:
            return
        with self._lock:
            self._count += _weight(frames) - _weight(self._kept.pop((path, state), None))
            self._kept[path, state] = frames
            while self._count > self._most and len(self._kept) > 1:
                self._count -= _weight(self._kept.popitem(last=False)[1])


def _weight(frames: list[Frame] | None) -> int:
    """Number of frames by which a file counts: one if it is not DICOM."""
    return 0 if frames is None else max(1, len(frames))
