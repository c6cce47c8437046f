"""Work in threads: many files at once, or preparing the next item while one is processed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Map with threads, so that waiting for slow disks overlaps."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, items))


def ahead(
    prepare: Callable[[_T], _R], items: Sequence[_T], parallel: bool
) -> Iterator[tuple[_T, Callable[[], _R]]]:
    """Each item with a function that returns (or raises) what `prepare` made of it.

    Args:
        parallel: prepare the next item in a thread meanwhile, one item ahead; else when it is asked for.
    """
    if not parallel:
        yield from ((item, partial(prepare, item)) for item in items)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        following = pool.submit(prepare, items[0]) if items else None
        for place, item in enumerate(items):
            ready, following = following, None
            assert ready is not None
            # The previous item must be ready first, so that at most two items are in memory.
            ready.exception()
            if place + 1 < len(items):
                following = pool.submit(prepare, items[place + 1])
            take, ready = ready.result, None
            yield item, take
            del take
    finally:
        pool.shutdown(cancel_futures=True)
