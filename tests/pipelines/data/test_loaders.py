"""Batches of patches, and the processes that read them."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from monai.bundle import ConfigParser

from pipelines.data.loaders import loader_workers, patch_loader, shard, steps_per_epoch, volume_loader
from pipelines.data.patch_dataset import PatchDataset, PatchSampler
from pipelines.data.volume_dataset import VolumeDataset
from tests.conftest import REPOSITORY
from tests.pipelines.small import NAMES, write_dataset
from tests.waiting import runs, wait_for
from transforms.preprocess import Preprocess


def patches(cases, root, count=11):
    return PatchDataset(
        cases, (8, 8, 8), count, Preprocess(), root, labels=NAMES, num_workers=0, progress=False
    )


@pytest.mark.parametrize("count", [1, 7, 8, 11])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_steps_are_counted_as_the_loader_does(cases, tmp_path_factory, count, batch_size, monkeypatch):
    dataset = patches(cases, tmp_path_factory.getbasetemp() / "store", count)
    loader = patch_loader(dataset, batch_size, 0)
    assert len(loader) == sum(1 for _ in loader) == steps_per_epoch(count, batch_size)
    for accumulation in (1, 2, 3):
        expected = len(range(0, len(loader), accumulation))
        assert steps_per_epoch(count, batch_size, accumulation) == expected
    for world in (2, 3):
        if count >= world:
            monkeypatch.setenv("WORLD_SIZE", str(world))
            for rank in range(world):
                sampler = PatchSampler(dataset, rank, world)
                loader = torch.utils.data.DataLoader(dataset, batch_size, sampler=sampler)
                assert len(loader) == steps_per_epoch(count, batch_size)


def test_workers_and_the_global_random_state_change_nothing(cases, tmp_path):
    dataset = patches(cases, tmp_path)
    epochs = {}
    for workers in (0, 2):
        torch.manual_seed(workers)
        loader = patch_loader(dataset, 4, workers)
        state = torch.get_rng_state()
        epochs[workers] = [
            [(batch["image"], batch["label"], batch["case"]) for batch in loader] for _ in range(2)
        ]
        assert torch.equal(torch.get_rng_state(), state), "a resumed training would draw other dropout"
    for one, two in zip(epochs[0], epochs[2], strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])
            assert a[2] == b[2]
    assert not torch.equal(epochs[0][0][0][0], epochs[0][1][0][0]), "another epoch has other patches"


def test_no_cases_make_an_empty_loader(tmp_path):
    assert len(volume_loader(VolumeDataset([], Preprocess(), tmp_path))) == 0


def test_shards_are_a_partition(tmp_path):
    assert shard(range(5)) == [0, 1, 2, 3, 4]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/r", rank=0, world_size=1)
    try:
        assert shard("abc") == ["a", "b", "c"]
    finally:
        torch.distributed.destroy_process_group()


def test_the_number_of_workers_fits_the_machine(monkeypatch):
    assert loader_workers(3) == 3
    assert loader_workers("0") == 0
    for cores, processes, expected in ((1, 1, 0), (2, 1, 0), (4, 1, 3), (64, 1, 8), (8, 4, 0), (16, 4, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert loader_workers("auto") == expected


class Processes(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.02)
        return os.getpid()

    def collate(self, items):
        return items[0]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no signals to groups")
@pytest.mark.parametrize("system", [sys.platform, "one that does not tell who sent a signal, such as macOS"])
def test_workers_outlive_signals_of_others_and_end_with_their_parent(system):
    program = (
        "import multiprocessing, os, signal, sys\n"
        f"if {system!r} != sys.platform: del signal.sigwaitinfo\n"
        "from pipelines.data.loaders import patch_loader\n"
        "from tests.pipelines.data.test_loaders import Processes\n"
        "multiprocessing.set_start_method('forkserver')  # what Python 3.14 does unless told otherwise\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, lambda *given: None)\n"
        "loader = patch_loader(Processes(), 1, 2)\n"
        "seen = []\n"
        "for process in loader:\n"
        "    seen.append(process)\n"
        "    if len(seen) == 4: print(*sorted(set(seen)), flush=True); sys.stdin.readline()\n"
        "print(len(seen), len(set(seen)))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(word) for word in parent.stdout.readline().split()]
    for number in (signal.SIGTERM, signal.SIGINT):
        killer = [sys.executable, "-c", f"import os; os.killpg({parent.pid}, {int(number)})"]
        subprocess.run(killer, check=True)
    assert parent.communicate("go on\n")[0].split() == ["40", "2"]
    assert parent.returncode == 0
    assert len(workers) == 2
    wait_for(lambda: not any(map(runs, workers)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The datasets of a bundle's own config on a small cohort."""
    folder = tmp_path_factory.mktemp("bundle")
    parser = ConfigParser()
    parser.read_config(str(REPOSITORY / "bundles" / "r2unet" / "train.json"))
    parser.update(
        {
            "dataset_dir": str(write_dataset(folder / "data", training=2, validation=2)),
            "store_dir": str(folder / "store"),
            "patch_size": [16, 16, 16],
            "spacing": [1.0, 1.0, 1.0],
            "normalization": None,
            "window": [-1000, 1000],
            "crop_above": None,
            "foreground": 0.33,
            "flip_axes": [],
            "augmentation": "strong",
            "batch_size": 1,
            "patches_per_epoch": 4,
        }
    )
    return {name: parser.get_parsed_content(f"{name}#dataset") for name in ("train", "validate")}


@pytest.mark.parametrize("name", ["train", "validate"])
def test_a_bundles_datasets_go_to_workers_that_start_anew(bundle, name):
    """As on macOS and Windows, where nothing is forked: what a worker needs is pickled."""

    def loader(workers):
        if name == "train":
            return patch_loader(bundle[name], 2, workers)
        return volume_loader(bundle[name], workers)

    spawned = loader(2)
    spawned.multiprocessing_context = "spawn"
    expected, found = list(loader(0)), list(spawned)
    assert len(expected) == len(found) == 2
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert one["case"] == other["case"]
        for key in ("image", "label"):
            assert type(one[key]) is type(other[key])
            assert torch.equal(one[key], other[key])
            assert one[key].dtype == other[key].dtype
