"""Loader workers where shared memory is short: on a real file system of its own, and by what is free."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pipelines.utils import shared_memory
from pipelines.utils.shared_memory import SharedMemoryError, workers_that_fit
from tests.conftest import REPOSITORY

MIB = 2**20


class Patches(torch.utils.data.Dataset):
    """Patches of a mebibyte."""

    num_patches = 8

    def __len__(self) -> int:
        return self.num_patches

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"image": torch.full((MIB // 4,), float(index)), "case": "a"}

    def collate(self, items: list[dict[str, object]]) -> dict[str, object]:
        return torch.utils.data.default_collate(items)


@pytest.fixture
def free(monkeypatch, tmp_path):
    def make(mebibytes: float) -> None:
        monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
        monkeypatch.setattr(
            shared_memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(mebibytes * MIB))
        )

    return make


@pytest.mark.parametrize(
    ("room", "batch", "wanted"), [(64, 2, 4), (17.5, 2, 3), (10, 2, 2), (5, 2, 0), (1, 1, 0)]
)
def test_as_many_as_fit(free, caplog, room, batch, wanted):
    """A batch that is used and two ahead for each worker."""
    caplog.set_level("INFO", logger="pipelines.utils.shared_memory")
    free(room)
    assert workers_that_fit(4, Patches(), batch, asked=False) == wanted
    assert len(caplog.messages) == (wanted < 4)


def test_who_asks_for_more_is_told_what_to_do(free):
    free(10)
    with pytest.raises(
        SharedMemoryError, match=r"10\.0 MiB free, and 4 loader workers need 18\.0 MiB .* --num_workers 2"
    ):
        workers_that_fit(4, Patches(), 2, asked=True)
    assert workers_that_fit(2, Patches(), 2, asked=True) == 2


def test_nobody_looks_without_workers_or_with_plenty(free, monkeypatch):
    monkeypatch.setattr(Patches, "__getitem__", lambda *_: pytest.fail("looked"))
    free(1)
    assert workers_that_fit(0, Patches(), 2, asked=True) == 0
    free(2048)
    assert workers_that_fit(8, Patches(), 2, asked=True) == 8
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", shared_memory.SHARED_MEMORY / "absent")
    assert workers_that_fit(8, Patches(), 2, asked=True) == 8


_LOAD = """
import logging
logging.basicConfig(level=logging.INFO)
from pipelines.data import loaders
from tests.pipelines.utils.test_shared_memory import Patches
loaders.cores_of_this_process = lambda: 4
loader = loaders.patch_loader(Patches(), 2, NUMBER)
print(loader.num_workers, *(int(value) for batch in loader for value in batch["image"][:, 0]))
"""


def mounted(size: str, number: str) -> subprocess.CompletedProcess:
    """The loader in a process whose /dev/shm has this size."""
    if sys.platform != "linux" or os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root on Linux can mount a /dev/shm")
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" -c "$1"'
    words = ["unshare", "-m", "sh", "-c", mount, sys.executable, _LOAD.replace("NUMBER", number)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, encoding="utf-8")
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no /dev/shm can be mounted here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize(("size", "workers"), [("1m", 0), ("11m", 2)])
def test_auto_works_with_a_small_shared_memory(size, workers):
    done = mounted(size, "'auto'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(workers), *map(str, range(8))]
    assert "loader workers instead of 3" in done.stderr


def test_a_number_that_does_not_fit_is_one_sentence():
    done = mounted("1m", "2")
    assert done.returncode != 0
    assert "SharedMemoryError: /dev/shm has 1.0 MiB free" in done.stderr
