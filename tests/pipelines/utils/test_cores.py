"""How many cores there are: affinity, cgroup quotas of both versions, and what libraries are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.utils import cores
from pipelines.utils.cores import available_cores

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 16 cores with the files of Linux that it is given."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return make


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 16),
        # A job of Slurm or systemd: the limit is on a folder around the process's own.
        (
            {
                "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0\n",
                "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/cpu.max": "max 100000\n",
            },
            4,
        ),
        # Version 1, as older Docker hosts have it: in the container only the root of its own group is to be seen.
        (
            {
                "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        # Both versions at once: the memory and the CPU in version 1, the rest in version 2.
        (
            {
                "proc/self/cgroup": "1:cpu:/a\n0::/b\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
        ({"proc/self/cgroup": "nonsense\n\n", "sys/fs/cgroup/cpu.max": "200000"}, 16),
    ],
)
def test_quotas(machine, files, wanted):
    assert available_cores(machine(files)) == wanted


def test_affinity_without_a_quota(tmp_path):
    assert available_cores(tmp_path) == HERE


def test_processes_of_torchrun_share_the_cores(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 6)
    for processes, wanted in (("1", 6), ("4", 1), ("9", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert cores.cores_of_this_process() == wanted


_ASK = """
import sys, torch, blosc2, SimpleITK, threadpoolctl, numpy
from pipelines.utils import cores
cores.available_cores = lambda: int(sys.argv[1])
if sys.argv[2] != "all":
    torch.set_num_threads(int(sys.argv[2]))
print(cores.use_cores(), torch.get_num_threads(), SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads(),
      max([1, *(p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas")]), blosc2.nthreads)
"""


@pytest.mark.parametrize(
    ("available", "torchs", "given", "wanted"),
    [(1, "4", None, 1), (3, "4", None, 3), (8, "2", None, 2), (1, "all", "2", 2)],
)
def test_libraries_are_told(available, torchs, given, wanted):
    environment = {k: v for k, v in os.environ.items() if k not in cores.VARIABLES}
    environment |= {"OMP_NUM_THREADS": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(available), torchs],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    threads, torchs_own, itk, blas, blosc = map(int, done.stdout.split())
    assert threads == torchs_own == itk == wanted
    assert blas <= wanted
    assert blosc <= max(wanted, 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_is_kept_to_one_core_takes_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from pipelines.utils.cores import available_cores, use_cores; print(available_cores(), use_cores())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in cores.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]
