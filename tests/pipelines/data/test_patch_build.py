"""One entry of a patch store: written as a whole, or not at all, whatever ends the process."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.data.patch_build import MAX_POSITIONS
from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from tests.pipelines.cohort import LABELS, Light, built, entries, leftovers, make_cases
from tests.waiting import runs, wait_for
from transforms.preprocess import Preprocess


def python(script, *arguments, **options):
    """A process that runs `script` in the repository."""
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_positions_lie_on_their_class_all_of_a_small_one_and_a_capped_sample_of_a_large_one(store):
    case = store.case(2)
    label = case.read_label([slice(0, s) for s in case.spatial_shape])
    assert case.classes[1] > MAX_POSITIONS
    assert case.num_positions(1) == MAX_POSITIONS
    assert np.array_equal(case.positions(2), np.argwhere(label == 2))
    large = case.positions(1)
    assert len(np.unique(large, axis=0)) == MAX_POSITIONS
    assert (label[tuple(large.T)] == 1).all()
    # a sample of the whole organ, not of its beginning
    assert np.allclose(large.mean(0), np.argwhere(label == 1).mean(0), atol=0.5)
    assert case.position(1, 17) == tuple(large[17])
    assert case.positions(9).shape == (0, 3)
    with pytest.raises(IndexError, match="stores 120 positions of class 2"):
        case.position(2, 120)


FULL_DISK = """
import resource, sys
from tests.pipelines.cohort import *
from pipelines.data import patch_store as patches
from pipelines.data.patch_store import *
folder, log = sys.argv[1:]
data = make_cases(Path(folder) / "data", 3)
save(data[0]["image"], np.zeros((70, 66, 40), np.int16))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = PatchStore(folder + "/s", Light(log), data, LABELS, 0, False)
try:
    store.build()
except StoreError as error:
    print(error)
print(len(entries(store)), len(leftovers(store)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_ends_the_build_at_once_and_leaves_no_half_entry(tmp_path):
    process = python(FULL_DISK, tmp_path, tmp_path / "log")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    message, counts = output.strip().splitlines()
    assert message.startswith("no room to store case case1 in ")
    assert "free some space" in message
    assert counts == "1 0"
    assert built(tmp_path / "log") == ["image-case0.nii.gz", "image-case1.nii.gz"]


BUILD = """
import os, sys
from tests.pipelines.cohort import *
from pipelines.data.patch_store import *
folder, log, workers, lock, *endless = sys.argv[1:]
if lock == "no":
    del os.lockf
data = case_paths(folder + "/data", 6)
store = PatchStore(folder + "/s", Light(log, endless=endless), data, LABELS, int(workers), False)
print("built", flush=True)
store.build()
assert store.complete and [c.id for c in store] == [c["case"] for c in data]
"""


@pytest.mark.parametrize("lock", ["yes", "no"])
def test_two_processes_at_once(tmp_path, lock):
    data = make_cases(tmp_path / "data", 6)
    log = tmp_path / "log"
    processes = [python(BUILD, tmp_path, log, 0, lock) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS)
    assert store.complete
    assert leftovers(store) == []
    for i in range(6):
        codes = store.case(i).read([slice(0, s) for s in store.case(i).spatial_shape])
        assert np.array_equal(codes, Light().image(data[i]["image"]).codes)
    if lock == "yes":
        assert len(built(log)) == 6, "each case is built by one of the two"


def test_killed_half_way_then_built(tmp_path):
    data = make_cases(tmp_path / "data", 6)
    log = tmp_path / "log"
    process = python(BUILD, tmp_path, log, 2, "yes", "image-case2", "image-case3")
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False)
    wait_for(lambda: len(built(log)) == 4 and len(entries(store)) == 2, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    try:
        # They end with the process that they work for, and by nothing else.
        wait_for(lambda: not any(worker.is_running() and runs(worker.pid) for worker in workers))
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    assert len(leftovers(store)) == 2, "the cases in work leave temporary folders"

    log.unlink()
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    assert len(built(log)) == 4
    assert leftovers(store) == []
    assert len(entries(store)) == 6


def test_another_machines_temporary_folder_is_left_alone_for_a_day(cohort, tmp_path):
    store = PatchStore(tmp_path, Preprocess(), cohort[:1], LABELS, 0, False)
    for name in ("young", "old"):
        (store.folder / f".tmp-{name}-1-abc").mkdir(parents=True)
    os.utime(store.folder / ".tmp-old-1-abc", (time.time() - 90_000,) * 2)
    store.build()
    assert leftovers(store) == [".tmp-young-1-abc"]


def test_a_worker_that_dies_names_the_cases_in_work(tmp_path):
    data = make_cases(tmp_path / "data", 4)
    store = PatchStore(tmp_path / "s", Light(deadly="case2"), data, LABELS, 2, False)
    with pytest.raises(StoreError, match=r"memory ran out.*case2.*smaller num_workers"):
        store.build()
