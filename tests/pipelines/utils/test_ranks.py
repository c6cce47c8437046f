"""Which of torchrun's processes this one is."""

import subprocess
import sys

import pytest

from pipelines.utils.ranks import local_rank, local_world_size, rank, world_size

# All at once: two processes write to one pipe at the same time.
PROGRAM = (
    "import os\n"
    "from pipelines.utils.ranks import local_rank, local_world_size, rank, world_size\n"
    "os.write(1, f'{rank()},{world_size()},{local_rank()},{local_world_size()} '.encode())\n"
)


def test_a_process_without_torchrun_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), world_size(), local_rank(), local_world_size()) == (0, 1, 0, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_torchrun_numbers_its_processes(tmp_path, repository, count):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    done = subprocess.run(
        [*command, str(tmp_path / "program.py")],
        env={"PATH": "", "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.split()) == [f"{number},{count},{number},{count}" for number in range(count)]
