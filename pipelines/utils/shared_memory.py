"""Limiting loader workers to the available shared memory, which is small in containers."""

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
# Batches that each worker prepares in advance (`prefetch_factor` of torch).
AHEAD = 2
# With so many bytes free, the need of the workers is not computed.
PLENTY = 2**30


class SharedMemoryError(UserError, RuntimeError):
    """The requested loader workers need more shared memory than is available; the message states what to do."""


def workers_that_fit(workers: int, dataset: Any, batch_size: int, asked: bool) -> int:
    """The number of workers whose batches fit into `/dev/shm`; systems without it keep the given number.

    By default Docker gives a container 64 MiB, and a worker without enough shared memory is killed by a bus error.

    Args:
        workers: number of workers.
        dataset: dataset with items by index and a method `collate`.
        batch_size: items per batch.
        asked: whether the user requested this number; otherwise it is reduced, which is logged.

    Raises:
        SharedMemoryError: the requested workers do not fit.
    """
    # Windows has neither statvfs, which reports the free space, nor /dev/shm.
    if workers == 0 or not hasattr(os, "statvfs") or not SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= PLENTY:
        return workers
    batch = _bytes(dataset.collate([dataset[0]])) * batch_size
    # In addition to the prepared batches, one is in use.
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
