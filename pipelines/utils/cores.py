"""How many processor cores this process really has, and every library told so."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

from pipelines.utils.cgroups import cgroup_folders, read_if_there
from pipelines.utils.ranks import local_world_size

__all__ = ["available_cores", "cores_of_this_process", "use_cores"]

logger = logging.getLogger(__name__)

# Variables by which a person, or torchrun, says how many threads a process takes; the first is asked by torch too.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available_cores(root: str | os.PathLike = "/") -> int:
    """Processor cores that this process and its children may use: affinity and cgroup quota, at least 1.

    A container or a batch job with a quota sees all cores of its host but gets the time of a few; threads beyond them
    only wait for one another. A quota that is no whole number is rounded down, but not below 1, for the same reason.

    Args:
        root: where `/proc` and `/sys` lie.
    """
    # joblib's count reads only the quota of a container's own root, none of a Slurm or systemd slice.
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path(root))
    return max(1, min(seen, math.floor(quota + 1e-6))) if quota is not None else seen


def cores_of_this_process() -> int:
    """The share of `available_cores` of each process that torchrun started on this machine, at least 1."""
    return max(1, available_cores() // local_world_size())


def use_cores() -> int:
    """Let torch, numpy's libraries, blosc2 and SimpleITK take as many threads as this process has cores.

    A number that a person has set in `OMP_NUM_THREADS` counts. Called at the start of every command; no library gets
    more threads than it would take by itself.

    Returns:
        The number of threads.
    """
    import blosc2
    import SimpleITK
    import threadpoolctl
    import torch

    # Which torch has obeyed when it was loaded.
    given = any(os.environ.get(name) for name in VARIABLES)
    threads = torch.get_num_threads() if given else min(torch.get_num_threads(), cores_of_this_process())
    if threads < torch.get_num_threads():
        logger.info("threads: %d, the cores that this process may use, of %d", threads, os.cpu_count() or 1)
        torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads, user_api="blas")
    blosc2.set_nthreads(min(threads, blosc2.nthreads))
    # Its filters run in worker processes too, beside one another.
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return threads


def _quota(root: Path) -> float | None:
    """The smallest number of cores that the cgroups of this process allow, up to the root; None without a limit.

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
