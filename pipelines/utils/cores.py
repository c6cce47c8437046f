"""The number of processor cores that this process may use, and the thread limits of the libraries."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

from pipelines.utils.cgroups import cgroup_folders, read_if_there
from pipelines.utils.ranks import local_world_size

__all__ = ["available_cores", "cores_of_this_process", "use_cores"]

logger = logging.getLogger(__name__)

# Variables with which a user or torchrun sets the number of threads of a process; torch reads the first one.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available_cores(root: str | os.PathLike = "/") -> int:
    """Processor cores that this process and its children may use: affinity and cgroup quota, at least 1.

    A container or batch job with a quota sees all cores of its host, but gets the time of only a few of them; more
    threads than these wait for each other. For the same reason, a fractional quota is rounded down (to at least 1).

    Args:
        root: folder that contains `proc` and `sys`.
    """
    # joblib's cpu_count reads only the quota at the root of the container, not that of a Slurm or systemd slice.
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path(root))
    return max(1, min(seen, math.floor(quota + 1e-6))) if quota is not None else seen


def cores_of_this_process() -> int:
    """`available_cores` divided by the number of processes that torchrun started on this machine, at least 1."""
    return max(1, available_cores() // local_world_size())


def use_cores() -> int:
    """Limit the threads of torch, numpy's libraries, blosc2 and SimpleITK to the cores of this process.

    A number that the user has set in `OMP_NUM_THREADS` takes precedence. Called at the start of every command; the
    number of threads of a library is never increased.

    Returns:
        The number of threads.
    """
    import blosc2
    import SimpleITK
    import threadpoolctl
    import torch

    # torch has applied these variables when it was imported.
    given = any(os.environ.get(name) for name in VARIABLES)
    threads = torch.get_num_threads() if given else min(torch.get_num_threads(), cores_of_this_process())
    if threads < torch.get_num_threads():
        logger.info("threads: %d, the cores that this process may use, of %d", threads, os.cpu_count() or 1)
        torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    blosc2.set_nthreads(min(threads, blosc2.nthreads))
    # SimpleITK's filters also run in several worker processes at the same time.
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return threads


def _quota(root: Path) -> float | None:
    """The smallest number of cores that this process's cgroup and its parents allow; None without a limit.

    Linux's cgroup v2 (`cpu.max`: quota and period in microseconds, or "max") and v1 (`cpu.cfs_quota_us`, -1 for none, and
    `cpu.cfs_period_us`): https://docs.kernel.org/admin-guide/cgroup-v2.html, section CPU.
    """
    found = []
    for folder in cgroup_folders("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            words = [word for name in names for word in read_if_there(folder / name).split()]
            if len(words) == 2 and words[0] not in ("max", "-1") and all(w.isdigit() for w in words):
                quota, period = map(int, words)
                if quota > 0 and period > 0:
                    found.append(quota / period)
    return min(found, default=None)
