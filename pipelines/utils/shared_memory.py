"""Whether what loader workers hand over fits the machine's shared memory, which containers keep small."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transforms.errors import UserError

__all__ = ["SharedMemoryError", "workers_that_fit"]

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
# Batches that torch asks of each worker ahead (`prefetch_factor`).
AHEAD = 2
# Where so much is free nobody has to look.
PLENTY = 2**30


class SharedMemoryError(UserError, RuntimeError):
    """The loader workers that were asked for need more shared memory than there is; the message says what to do."""


def workers_that_fit(workers: int, dataset: Any, batch_size: int, asked: bool) -> int:
    """The number of workers whose batches fit `/dev/shm`; elsewhere than on Linux, and with none, as given.

    Docker gives a container 64 MiB unless told otherwise, and a worker that finds no room dies of a bus error.

    Args:
        workers: that shall work.
        dataset: with items by index and `collate`.
        batch_size: items of a batch.
        asked: whether a person asked for this number; else fewer are taken, and that is said in one line.

    Raises:
        SharedMemoryError: a person asked for workers that do not fit.
    """
    # Without statvfs nobody can say how much room a file system has; Windows has no /dev/shm either.
    if workers == 0 or not hasattr(os, "statvfs") or not SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= PLENTY:
        return workers
    batch = _bytes(dataset.collate([dataset[0]])) * batch_size
    # One more batch is in use while the next ones wait.
    fitting = max(0, (free // max(1, batch) - 1) // AHEAD)
    if fitting >= workers:
        return workers
    needed = (AHEAD * workers + 1) * batch
    room = f"{SHARED_MEMORY} has {_mebibytes(free)} free"
    if asked:
        raise SharedMemoryError(
            f"{room}, and {workers} loader workers need {_mebibytes(needed)} there; give a container more (docker run "
            f"--shm-size={max(1, -(-needed // 2**30))}g), or use --num_workers {fitting}"
        )
    logger.info(
        "%d loader workers instead of %d: %s, and each needs %s there (docker run --shm-size gives more)",
        fitting,
        workers,
        room,
        _mebibytes(AHEAD * batch),
    )
    return fitting


def _bytes(batch: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
