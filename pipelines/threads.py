"""Many small pieces of reading at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipelines.cores import available_cores

_T = TypeVar("_T")
_R = TypeVar("_R")


def _workers() -> int:
    return min(32, 4 * available_cores())


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Map with threads, in chunks: one task per case would cost more than reading a header."""
    size = max(1, min(256, len(items) // _workers()))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(_workers()) as pool:
        return [
            result
            for chunk in pool.map(lambda part: [function(item) for item in part], chunks)
            for result in chunk
        ]
