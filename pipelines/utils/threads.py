"""Reading many small files in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipelines.utils.cores import available_cores
from pipelines.utils.progress import Steps

_T = TypeVar("_T")
_R = TypeVar("_R")


def _workers() -> int:
    return min(32, 4 * available_cores())


def in_threads(function: Callable[[_T], _R], items: Sequence[_T], doing: str) -> list[_R]:
    """Apply a function to all items with threads, in chunks, because a task per item takes longer than a header.

    Args:
        doing: text of the progress, such as "checking".
    """
    size = max(1, min(256, len(items) // _workers()))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]

    with (
        Steps(len(items), "case", doing, leave=False, delay=2.0) as steps,
        ThreadPoolExecutor(_workers()) as pool,
    ):

        def done(item: _T) -> _R:
            result = function(item)
            steps.step()
            return result

        return [
            result
            for chunk in pool.map(lambda part: [done(item) for item in part], chunks)
            for result in chunk
        ]
