"""Data loaders: batches of patches for training, whole cases for everything else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pipelines.data.patch_dataset import PatchDataset, PatchSampler
from pipelines.data.volume_dataset import VolumeDataset, only_item
from pipelines.distributed.process_group import is_distributed
from pipelines.utils.cores import cores_of_this_process
from pipelines.utils.ranks import world_size
from pipelines.utils.shared_memory import workers_that_fit
from pipelines.utils.signals import outlive_signals

logger = logging.getLogger(__name__)


def shard(items: Sequence[Any]) -> list[Any]:
    """The part of `items` that this process of a distributed run works on.

    Examples:
        >>> shard(["case_1", "case_2"])  # not distributed: all of them
        ['case_1', 'case_2']
    """
    if is_distributed():
        return list(items)[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
    return list(items)


def volume_loader(dataset: VolumeDataset, num_workers: int = 0) -> DataLoader:
    """One case at a time, in order."""
    return DataLoader(
        dataset,
        batch_size=1,
        num_workers=num_workers,
        multiprocessing_context=_start_method(num_workers),
        collate_fn=only_item,
        generator=torch.Generator(),
    )


def patch_loader(dataset: PatchDataset, batch_size: int, num_workers: int | str = "auto") -> DataLoader:
    """Batches of patches, distributed over the ranks, with workers that stay alive between epochs.

    Raises:
        SharedMemoryError: the requested workers need more shared memory than is available.
    """
    workers = loader_workers(num_workers)
    workers = workers_that_fit(workers, dataset, batch_size, asked=num_workers != "auto")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=PatchSampler(dataset),
        num_workers=workers,
        multiprocessing_context=_start_method(workers),
        collate_fn=dataset.collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
        # A loader draws a seed for its workers (persistent workers once, others every epoch). Drawn from torch's
        # default generator, it would change dropout, and a resumed training would differ from an uninterrupted one.
        generator=torch.Generator(),
    )


def _start_method(workers: int) -> str | None:
    """The start method of worker processes: fork on Linux with every Python version, elsewhere Python's default.

    Python 3.14 would use a fork server on Linux. A signal to the process group ends that server and with it the
    workers (see `outlive_signals`), and each worker would import torch and MONAI again, which takes seconds.
    """
    return "fork" if workers and sys.platform == "linux" and hasattr(os, "fork") else None


def loader_workers(requested: int | str) -> int:
    """Number of worker processes: as requested, or with "auto" chosen by the number of cores.

    With one or two cores it is 0, because workers would slow down the training; otherwise one core is left for
    the main process, and at most 8 workers are used.
    """
    if requested != "auto":
        return int(requested)
    share = cores_of_this_process()
    return 0 if share <= 2 else min(8, share - 1)


def steps_per_epoch(num_patches: int, batch_size: int, accumulation: int = 1) -> int:
    """Optimiser steps of one epoch, the same on every rank.

    Examples:
        >>> steps_per_epoch(num_patches=100, batch_size=4, accumulation=2)
        13
    """
    share = num_patches // world_size()
    iterations = -(-share // batch_size)
    return -(-iterations // accumulation)
