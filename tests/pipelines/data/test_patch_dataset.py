"""Patches: the right voxels, the right shares, and the same ones wherever they are drawn."""

import collections
import os
import subprocess
import sys
from pathlib import Path

import monai
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch.utils.data import DataLoader

from pipelines.data.patch_dataset import PatchDataset, PatchSampler
from pipelines.data.patch_store import PatchStore
from tests.pipelines.cohort import LABELS, Light, make_cases, save
from transforms.augmentation.patch_augmentation import PatchAugmentation
from transforms.preprocess import Preprocess

SHAPE = (31, 30, 29)
WINDOW = (-20000.0, 20000.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cases(tmp_path_factory.mktemp("cohort"), 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def store(cohort, root):
    return PatchStore(root, Preprocess(), cohort, LABELS, 0, False).build()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """One volume in which every voxel's value is its own index, so that a patch tells where it was cut."""
    folder = tmp_path_factory.mktemp("numbered")
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE) - 13000
    data = [
        {
            "image": save(folder / "image.nii.gz", values.astype(np.int16)),
            "label": save(folder / "label.nii.gz", (values % 7 == 0).astype(np.uint8)),
            "case": "numbered",
        }
    ]
    return values, PatchStore(folder / "store", Preprocess(window=WINDOW), data, None, 0, False).build()


def values_of(item):
    """The stored values of a numbered patch."""
    return ((item["image"][0].double() + 1) * 20000 - 20000).round().long().numpy()


def same(one, other):
    return one["case"] == other["case"] and all(torch.equal(one[k], other[k]) for k in ("image", "label"))


# -- content -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    size=st.tuples(*[st.integers(1, n) for n in SHAPE]),
    index=st.integers(0, 10**6),
    foreground=st.floats(0, 1),
)
def test_a_patch_is_a_slice_of_the_volume_and_of_its_label(numbered, size, index, foreground):
    values, store = numbered
    item = PatchDataset(store, size, 10, foreground=foreground)[index]
    assert item["image"].shape == (1, *size)
    assert item["image"].dtype == torch.float32
    assert item["label"].shape == (1, *size)
    assert item["label"].dtype == torch.uint8
    patch = values_of(item)
    start = np.unravel_index(int(patch.flat[0]) + 13000, SHAPE)
    region = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    assert np.array_equal(patch, values[region])
    assert np.array_equal(item["label"][0].numpy(), values[region] % 7 == 0)
    assert item["case"] == "numbered"


def test_every_position_is_reached_and_foreground_lies_in_the_middle(numbered):
    _, store = numbered
    size = (30, 28, 29)
    anywhere = PatchDataset(store, size, 200, foreground=0)
    starts = collections.Counter(int(values_of(anywhere[i]).flat[0]) for i in range(200))
    assert len(starts) == 2 * 3 * 1
    assert min(starts.values()) > 15
    centred = PatchDataset(store, (5, 6, 7), 50, foreground=1)
    edge = 0
    for i in range(50):
        item = centred[i]
        start = np.unravel_index(int(values_of(item).flat[0]) + 13000, SHAPE)
        middle = all(0 < a < n - p for a, n, p in zip(start, SHAPE, (5, 6, 7), strict=True))
        edge += not middle
        assert not middle or item["label"][0, 2, 3, 3] == 1
    assert edge < 40


@settings(max_examples=30)
@given(size=st.tuples(*[st.integers(n - 3, n + 20) for n in SHAPE]), index=st.integers(0, 1000))
def test_a_volume_smaller_than_the_patch_lies_in_the_middle_of_air(numbered, size, index):
    values, store = numbered
    item = PatchDataset(store, size, 10, foreground=0.5)[index]
    assert item["image"].shape == (1, *size)
    patch = values_of(item)
    inside = tuple(
        slice((p - n + 1) // 2, (p - n + 1) // 2 + n) if p > n else slice(0, p)
        for p, n in zip(size, SHAPE, strict=True)
    )
    air = np.ones(size, bool)
    air[inside] = False
    assert (patch[air] == -20000).all()
    assert (item["label"][0].numpy()[air] == 0).all()
    start = np.unravel_index(int(patch[inside].flat[0]) + 13000, SHAPE)
    region = tuple(slice(a, a + n) for a, n in zip(start, patch[inside].shape, strict=True))
    assert np.array_equal(patch[inside], values[region])


def test_axial_slices_of_volumes(numbered):
    values, store = numbered
    dataset = PatchDataset(store, (16, 40), 30, foreground=0.5)
    slices = set()
    for i in range(30):
        item = dataset[i]
        assert item["image"].shape == item["label"].shape == (1, 16, 40)
        patch = values_of(item)[:, 5:35]
        x, y, z = np.unravel_index(int(patch[0, 0]) + 13000, SHAPE)
        assert y == 0
        assert np.array_equal(patch, values[x : x + 16, :, z])
        slices.add(z)
    assert len(slices) > 10


def test_2d_images(tmp_path):
    values = np.arange(50 * 40).reshape(50, 40)
    data = [
        {
            "image": save(tmp_path / "image.nii.gz", values.astype(np.int16)),
            "label": save(tmp_path / "label.nii.gz", (values % 5).astype(np.uint8)),
        }
    ]
    dataset = PatchDataset(data, (16, 8), 10, Preprocess(window=WINDOW), tmp_path / "s", progress=False)
    item = dataset[3]
    patch = values_of(item)
    x, y = np.unravel_index(int(patch[0, 0]), values.shape)
    assert np.array_equal(patch, values[x : x + 16, y : y + 8])
    assert np.array_equal(item["label"][0], patch % 5)
    with pytest.raises(ValueError, match="case image is a 2D image"):
        PatchDataset(dataset.store, (4, 4, 4), 1)[0]


def test_labels_of_more_than_255_classes_and_cases_without_labels(tmp_path):
    label = np.arange(300 * 20).reshape(300, 20).astype(np.int16)
    image = save(tmp_path / "image.nii.gz", label)
    wide = [{"image": image, "label": save(tmp_path / "label.nii.gz", label)}]
    item = PatchDataset(wide, (300, 20), 1, Light(), tmp_path / "s", progress=False)[0]
    assert item["label"].dtype == torch.int32
    assert np.array_equal(item["label"][0], label)
    item = PatchDataset([{"image": image}], (8, 8), 4, Light(), tmp_path / "s", progress=False)[2]
    assert set(item) == {"image", "case"}


def test_patches_are_normalised_as_inference_normalises_volumes(store, cohort):
    preprocess = Preprocess()
    dataset = PatchDataset(store, (70, 66, 40), 4, foreground=0)
    for i in range(4):
        prepared = preprocess.image(cohort[int(dataset[i]["case"][-1])]["image"])
        assert torch.equal(dataset[i]["image"], preprocess.normalise(prepared.codes, prepared.intensity))


# -- shares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])
def test_the_share_of_foreground_is_exact_over_any_run_of_indices(store, share):
    dataset = PatchDataset(store, (8, 8, 8), 1000, foreground=share)
    for epoch in range(3):
        hits = np.array([dataset.is_foreground(epoch * 1000 + i) for i in range(1000)])
        for run in (1, 2, 7, 100):
            sums = np.convolve(hits, np.ones(run), "valid")
            assert sums.min() >= np.floor(run * share - 1e-6)
            assert sums.max() <= np.ceil(run * share + 1e-6)


def test_classes_are_drawn_uniformly_or_as_weighted(store):
    def drawn(**options):
        dataset = PatchDataset(store, (1, 1, 1), 400, foreground=1, **options)
        return np.bincount([int(dataset[i]["label"]) for i in range(400)], minlength=3) / 400

    assert np.allclose(drawn(), [0, 0.5, 0.5], atol=0.08)
    assert np.allclose(drawn(class_weights={1: 3}), [0, 0.75, 0.25], atol=0.08)
    assert np.allclose(drawn(class_weights={1: 0}), [0, 0, 1])
    volume = 70 * 66 * 40
    assert drawn(class_weights={1: 0, 2: 0})[0] > 0.5 > 120 / volume


def test_cases_come_equally_often_in_changing_order(store):
    dataset = PatchDataset(store, (8, 8, 8), 10)
    cases = [dataset.case_index(i) for i in range(400)]
    rounds = [tuple(cases[i : i + 4]) for i in range(0, 400, 4)]
    assert all(sorted(r) == [0, 1, 2, 3] for r in rounds)
    assert len(set(rounds)) > 15


def test_class_without_voxels_in_a_case_falls_back_to_anywhere(tmp_path):
    image = save(tmp_path / "image.nii.gz", np.zeros((20, 20, 20), np.int16))
    label = save(tmp_path / "label.nii.gz", np.zeros((20, 20, 20), np.uint8))
    data = [{"image": image, "label": label}]
    item = PatchDataset(data, (8, 8, 8), 4, Preprocess(), tmp_path / "s", 1.0, progress=False)[1]
    assert item["label"].sum() == 0


# -- determinism -------------------------------------------------------------------------------------------


def augmented(store, **options):
    return PatchDataset(store, (24, 20, 16), 12, transform=PatchAugmentation((24, 20, 16)), **options)


def test_a_patch_depends_on_seed_and_index_alone(store):
    one, other = augmented(store, seed=3), augmented(store, seed=3)
    forwards = [one[i] for i in range(30)]
    backwards = {i: other[i] for i in reversed(range(30))}
    assert all(same(forwards[i], backwards[i]) for i in range(30))
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert same(one[7], forwards[7])
    assert not same(augmented(store, seed=4)[7], forwards[7])
    images = [i["image"] for i in forwards]
    assert not any(torch.equal(a, b) for k, a in enumerate(images) for b in images[:k]), "epochs differ"


@pytest.mark.parametrize("loader", [DataLoader, monai.data.DataLoader])
def test_workers_change_nothing(store, loader):
    dataset = augmented(store)
    expected = [dataset[i] for i in range(24)]
    for workers in (0, 2):
        batches = loader(
            dataset,
            batch_size=4,
            sampler=PatchSampler(dataset),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for epoch in range(2):
            items = expected[12 * epoch :]
            for k, batch in enumerate(batches):
                assert type(batch["image"]) is torch.Tensor
                for j in range(4):
                    got = {key: batch[key][j] for key in ("image", "label", "case")}
                    assert same(got, items[4 * k + j])


def test_any_monai_transform_is_seeded_from_the_patch(store):
    def dataset():
        transform = Compose([RandFlipd(["image", "label"], 0.5, 0), RandGaussianNoised(["image"], 0.5)])
        return PatchDataset(store, (16, 16, 16), 10, transform=transform)

    one, other = dataset(), dataset()
    for i in range(6):
        other[i]
    assert torch.equal(one[8]["image"], other[8]["image"])


def test_patches_do_not_depend_on_augmentation_s_larger_region(numbered):
    _, store = numbered
    never = {k: 0.0 for k in PatchAugmentation.PROBABILITY}
    size = (9, 8, 7)
    plain = PatchDataset(store, size, 10)
    # turned by nothing, but read with a margin and resampled
    still = PatchAugmentation(size, rotation=1e-9, probability=never | {"rotation": 1.0})
    turned = PatchDataset(store, size, 10, transform=still)
    assert still.source_size() > size
    for i in range(10):
        assert torch.allclose(plain[i]["image"], turned[i]["image"], atol=1e-4)
        assert torch.equal(plain[i]["label"], turned[i]["label"])


# -- construction ------------------------------------------------------------------------------------------


def test_a_list_of_cases_is_built_at_construction_and_reused(cohort, tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        dataset = PatchDataset(
            cohort[:2], (8, 8, 8), 3, Light(log), tmp_path / "s", labels=LABELS, progress=False
        )
        assert len(dataset) == 3
        assert dataset[0]["image"].shape == (1, 8, 8, 8)
    assert len(log.read_text().split()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": (8,)}, "2 or 3 positive numbers"),
        ({"patch_size": (8, 0, 8)}, "2 or 3 positive numbers"),
        ({"num_patches": 0}, "must be positive"),
        ({"seed": -1}, "must not be negative"),
        ({"foreground": 1.5}, "between 0 and 1"),
        ({"class_weights": {1: -1}}, "must not be negative"),
        ({"data": [{"image": "a"}]}, "needs `preprocess` and `root`"),
    ],
)
def test_parameters_out_of_range(store, options, message):
    with pytest.raises(ValueError, match=message):
        PatchDataset(**({"data": store, "patch_size": (8, 8, 8), "num_patches": 4} | options))
    with pytest.raises(IndexError, match="not negative"):
        PatchDataset(store, (8, 8, 8), 4)[-1]


# -- the sampler -------------------------------------------------------------------------------------------


@given(length=st.integers(1, 200), world=st.integers(1, 8), batch=st.integers(1, 9), epoch=st.integers(0, 5))
def test_the_ranks_k_th_batches_are_the_global_k_th_batch(length, world, batch, epoch):
    if length < world:
        with pytest.raises(ValueError, match="are fewer than the"):
            PatchSampler(length, 0, world)
        return
    ranks = [PatchSampler(length, rank, world) for rank in range(world)]
    single = PatchSampler(length, 0, 1)
    for sampler in (*ranks, single):
        sampler.set_epoch(epoch)
    lists = [list(sampler) for sampler in ranks]
    everything = list(single)
    assert everything == list(range(epoch * length, (epoch + 1) * length))
    assert [len(part) for part in lists] == [len(sampler) for sampler in ranks] == [length // world] * world
    for k in range(0, length // world, batch):
        together = sorted(i for part in lists for i in part[k : k + batch])
        assert together == everything[k * world : k * world + len(together)]


def test_epochs_advance_by_themselves_and_can_be_set():
    sampler = PatchSampler(5)
    assert [next(iter(sampler)) for _ in range(3)] == [0, 5, 10]
    sampler.set_epoch(1)
    assert list(sampler) == [5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="rank should be in the interval"):
        PatchSampler(5, 2, 2)


@pytest.mark.parametrize("world", [1, 2])
def test_a_place_in_the_epoch_is_gone_on_with_once(world):
    for rank in range(world):
        sampler = PatchSampler(9, rank, world)
        sampler.set_epoch(2)
        whole = list(sampler)
        sampler.set_epoch(2, skip=3)
        assert list(sampler) == whole[3:]
        assert len(sampler) == len(whole), "an epoch is as long as ever"
        assert list(sampler) == [index + 9 for index in whole]
        sampler.set_epoch(2, skip=len(whole))
        assert list(sampler) == []


RANKS = """
import sys, torch
from pipelines.data.patch_dataset import PatchSampler
rank, folder = int(sys.argv[1]), sys.argv[2]
store = torch.distributed.FileStore(folder + "/rendezvous", 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
print(list(PatchSampler(7)))
# One that ends while the other still connects takes the connection away.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_rank_and_world_come_from_torch_distributed(tmp_path):
    repository = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", RANKS]
    processes = [
        subprocess.Popen([*command, str(r), str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    assert [p.communicate()[0].strip() for p in processes] == ["[0, 2, 4]", "[1, 3, 5]"]


def test_memory_does_not_hold_volumes(store):
    dataset = PatchDataset(store, (8, 8, 8), 100)
    for i in range(100):
        dataset[i]
    held = [v for case in dataset.store._cases.values() for v in vars(case).values()]
    assert held
    assert not any(isinstance(v, (np.ndarray, torch.Tensor)) for v in held)
    handles = [
        os.readlink(f"/proc/self/fd/{h}")
        for h in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{h}")
    ]
    assert not any(h.endswith(".b2nd") for h in handles)
