"""Many pieces of work in processes of their own, a few at a time, so that each has one core and its own memory."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from pipelines.utils.cores import available_cores

__all__ = ["WorkerDiedError", "end_with_parent", "in_processes", "worker_count"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_MOST_ON_WINDOWS = 61
"""Processes that a `ProcessPoolExecutor` can have there."""


class WorkerDiedError(RuntimeError, Generic[_T]):
    """A process ended by force, most likely for lack of memory.

    Attributes:
        items: of which one was its work.
    """

    def __init__(self, items: list[_T]) -> None:
        super().__init__(items)
        self.items = items

    def __str__(self) -> str:
        return f"a process died that worked on one of {self.items}"


def worker_count(asked: int | None, items: int) -> int:
    """How many processes so many pieces of work are worth.

    Args:
        asked: by the user; None for one per available core, at most 8.
        items: pieces of work.
    """
    # a worker needs seconds to import torch: it pays from two pieces of work each
    wanted = asked if asked is not None else min(8, available_cores(), items // 2)
    return min(wanted, items, _MOST_ON_WINDOWS if os.name == "nt" else items)


def in_processes(
    function: Callable[[_T], _R],
    items: Iterable[_T],
    workers: int,
    start: Callable[..., None],
    *arguments: Any,
) -> Iterator[tuple[_T, _R]]:
    """Yield each piece of work with its result, in the order in which they are done.

    Args:
        function, start: of a module that a new process imports in little time.
        workers: processes.
        start: called once in each process, with `arguments`.

    Raises:
        WorkerDiedError: a process ended by force.
    """
    # forking a process that holds torch's thread pools can hang; a spawned one starts clean
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=arguments)
    running: dict[Future[_R], _T] = {}
    try:
        queue = iter(items)
        while True:
            # few ahead, so that an error of the caller or Ctrl-C ends the work soon
            for item in itertools.islice(queue, 2 * workers - len(running)):
                running[pool.submit(function, item)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
    except BrokenProcessPool as error:
        raise WorkerDiedError(list(running.values())) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """End this worker when the process that started it is killed: it would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
