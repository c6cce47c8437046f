"""What a training may take of the machine that it runs on: memory, and the machine in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from pipelines.utils.cgroups import cgroup_folders, read_if_there
from pipelines.utils.cores import cores_of_this_process
from pipelines.utils.provenance import cpu_model
from pipelines.utils.ranks import local_world_size

__all__ = ["Memory", "available_memory", "machine_in_words", "memory_for_training"]

GB = 10**9
GPU_SHARE = 0.9
"""Of a GPU's free memory: kernels that are loaded later take some, and fragments are lost."""
HOST_SHARE = 0.75
"""Of the free memory of a machine without a GPU: loader workers, volumes of the validation and files that the system
keeps at hand need the rest."""


class Memory(NamedTuple):
    """Memory that a training may take beyond what its process has already, and why, as the end of a sentence."""

    bytes: int
    reason: str


def memory_for_training(
    device: torch.device | str, memory_gb: float | None = None, root: str | os.PathLike = "/"
) -> Memory:
    """How much memory a training may take: of its GPU, or of the machine where it has none.

    Processes that torchrun started on one machine without GPUs share it out evenly.

    Args:
        device: where the network is trained.
        memory_gb: given by a person, in 1e9 bytes; wins.
        root: where `/proc` and `/sys` lie.
    """
    where = torch.device(device)
    if memory_gb is not None:
        return Memory(int(memory_gb * GB), f"memory_gb gives {memory_gb:g} GB")
    if where.type == "cuda":
        free, _ = torch.cuda.mem_get_info(where)
        name = torch.cuda.get_device_name(where)
        return Memory(int(free * GPU_SHARE), f"{GPU_SHARE:.0%} of the {_gb(free)} that the {name} has free")
    free, processes = available_memory(root), local_world_size()
    shared = f", shared out among {processes} processes" if processes > 1 else ""
    return Memory(
        int(free * HOST_SHARE) // processes,
        f"{HOST_SHARE:.0%} of the {_gb(free)} that this machine has free{shared}, the rest being for loading data "
        "and validation",
    )


def available_memory(root: str | os.PathLike = "/") -> int:
    """Bytes that this process and its children can take before the machine swaps or ends them.

    The limit of a container or of a batch job counts where it leaves less than the machine has: `memory.max` and
    `memory.high` of Linux's cgroup v2, `memory.limit_in_bytes` of v1. Files that the system has cached and not used
    lately (`inactive_file`) are given up when memory is wanted, so they count as free.

    Args:
        root: where `/proc` and `/sys` lie.
    """
    left = [psutil.virtual_memory().available]
    for folder in cgroup_folders("memory", Path(root)):
        cached = _statistic(folder, "total_inactive_file") or _statistic(folder, "inactive_file")
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.high", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            allowed, used = (read_if_there(folder / name).strip() for name in (limit, usage))
            if allowed.isdigit() and used.isdigit():
                left.append(int(allowed) - max(0, int(used) - cached))
    return max(0, min(left))


def machine_in_words(device: torch.device | str) -> str:
    """The processor with the cores that this process may use, and the GPU where the device is one."""
    cores = cores_of_this_process()
    words = f"{cpu_model()}, {cores} core{'' if cores == 1 else 's'}"
    where = torch.device(device)
    if where.type != "cuda":
        return words
    found = torch.cuda.get_device_properties(where)
    return f"{found.name} with {_gb(found.total_memory)}, {words}"


def _statistic(folder: Path, name: str) -> int:
    for line in read_if_there(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB"
