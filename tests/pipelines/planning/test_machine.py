"""What a training may take of a machine: its own limits, those of containers, and what a person gives."""

import psutil
import pytest

from pipelines.planning.machine import HOST_SHARE, available_memory, machine_in_words, memory_for_training

MB = 10**6


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 8 GB free and the files of Linux that it is given."""

    class Free:
        available = 8000 * MB

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    return make


V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 8000),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "5\n"}, 8000),
        (
            {
                "proc/self/cgroup": "0::/\n",
                f"{V2}/memory.max": f"{4000 * MB}\n",
                f"{V2}/memory.current": f"{1500 * MB}\n",
                f"{V2}/memory.stat": f"anon 5\ninactive_file {500 * MB}\n",
            },
            3000,
        ),
        # The job around the process has less left than its own group.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                f"{V2}/job/memory.high": f"{2000 * MB}\n",
                f"{V2}/job/memory.current": f"{500 * MB}\n",
                f"{V2}/job/step/memory.max": f"{4000 * MB}\n",
                f"{V2}/job/step/memory.current": "0\n",
            },
            1500,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/ab\n",
                f"{V1}/memory.limit_in_bytes": f"{1000 * MB}\n",
                f"{V1}/memory.usage_in_bytes": f"{400 * MB}\n",
                f"{V1}/memory.stat": f"inactive_file 0\ntotal_inactive_file {100 * MB}\n",
            },
            700,
        ),
        # Version 1 without a limit.
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",
                f"{V1}/memory.usage_in_bytes": f"{400 * MB}\n",
            },
            8000,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                f"{V2}/memory.max": f"{MB}\n",
                f"{V2}/memory.current": f"{2 * MB}\n",
            },
            0,
        ),
    ],
)
def test_what_is_free(machine, files, wanted):
    assert available_memory(machine(files)) == wanted * MB


def test_a_training_takes_a_share_of_what_is_free(machine, monkeypatch):
    found = memory_for_training("cpu", root=machine({}))
    assert found.bytes == int(8000 * MB * HOST_SHARE)
    assert "8.0 GB that this machine has free" in found.reason
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    shared = memory_for_training("cpu", root=machine({}))
    assert shared.bytes == found.bytes // 2
    assert "among 2 processes" in shared.reason


def test_what_a_person_gives_wins(machine):
    found = memory_for_training("cpu", memory_gb=1.5, root=machine({}))
    assert found == (1500 * MB, "memory_gb gives 1.5 GB")


def test_this_machine():
    assert 0 < available_memory() <= psutil.virtual_memory().total
    assert "core" in machine_in_words("cpu")


@pytest.mark.cuda
def test_a_gpu():
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < memory_for_training("cuda").bytes < total
    assert torch.cuda.get_device_name(0) in machine_in_words("cuda")
