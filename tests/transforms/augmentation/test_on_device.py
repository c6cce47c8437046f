"""Patches augmented on the device: the same patches, the same training."""

import re
import sys

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import RandFlipd

from pipelines.config.errors import user_error
from pipelines.data.loaders import patch_loader
from pipelines.data.patch_dataset import PatchDataset
from pipelines.data.patch_store import PatchStore
from pipelines.inference.trained_model import BEST, load_tensors
from pipelines.training.checkpoints import LAST, load_state
from pipelines.training.losses import SegLoss
from pipelines.training.trainer import NonFiniteLossError, SegTrainer, prepare_patches
from tests.pipelines import small
from tests.pipelines.small import NAMES, Tiny, write_ct
from tests.pipelines.training.states import equal, without_times
from transforms.augmentation.on_device import AugmentationPlaceError, augments_on_device
from transforms.augmentation.patch_augmentation import PatchAugmentation
from transforms.preprocess import Preprocess

OFTEN = dict.fromkeys(PatchAugmentation.PROBABILITY, 0.5)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    cases = [write_ct(folder, f"ct{i}", shape=(20 + 3 * i, 18, 9)) for i in range(3)]
    kinds = {"window": Preprocess(), "z-score": Preprocess(window=None)}
    return {
        name: PatchStore(folder / name, preprocess, cases, NAMES, 0, progress=False)
        for name, preprocess in kinds.items()
    }


def dataset(store, size, place, count=12, **options):
    augment = PatchAugmentation(size, probability=OFTEN)
    return PatchDataset(store, size, count, transform=augment, augment_on=place, **options)


def prepared(dataset, batch_size, workers=0, epochs=2, device="cpu"):
    loader = patch_loader(dataset, batch_size, workers)
    return [
        (*prepare_patches(batch, torch.device(device), non_blocking=True), batch["case"])
        for _ in range(epochs)
        for batch in loader
    ]


@pytest.mark.parametrize("kind", ["window", "z-score"])
@pytest.mark.parametrize(
    ("size", "batch_size"),
    # the third is larger than every volume along an axis, so air is read around it
    [((8, 9, 7), 4), ((10, 12), 5), ((12, 10, 16), 3), ((8, 8, 8), 1)],
)
def test_the_device_makes_the_patches_that_workers_make(stores, kind, size, batch_size):
    expected = prepared(dataset(stores[kind], size, "workers"), batch_size)
    found = prepared(dataset(stores[kind], size, "device"), batch_size)
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert one[0].shape[1:] == one[1].shape[1:] == (1, *size)
        assert two[0].is_contiguous()
        assert (two[0].dtype, two[1].dtype) == (torch.float32, torch.uint8)
        assert one[2] == two[2]


def test_loader_workers_send_what_is_left_to_do(stores):
    here, there = (prepared(dataset(stores["window"], (8, 8, 8), "device"), 4, n) for n in (0, 2))
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_nothing_is_sent_that_is_not_used(stores):
    """Codes of 16 bits, and of each patch the margin that it needs, not that of the batch's largest."""
    read = dataset(stores["window"], (8, 8, 8), "device")
    batch = next(iter(patch_loader(read, 12, 0)))
    sources = [source[1:] for source in batch["deferred"].sources]
    voxels = sum(int(np.prod(source)) for source in sources)
    assert len(set(sources)) > 3
    assert batch["image"].dtype == torch.int16
    assert batch["image"].shape == batch["label"].shape == (voxels,)


def training(stores, place, **options):
    torch.manual_seed(0)
    network = Tiny(4, norm="group", dropout=0.0)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    loader = patch_loader(dataset(stores["window"], (8, 8, 8), place), 2, 0)
    return SegTrainer("cpu", 2, loader, network, optimizer, SegLoss(), **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulation_steps": 3}, {"precision": "bf16", "channels_last": True}],
    ids=["plain", "accumulation", "bf16, channels-last"],
)
def test_a_training_ends_with_the_same_weights(stores, options):
    trained = [training(stores, place, **options) for place in ("workers", "device")]
    for engine in trained:
        engine.run()
    one, two = (engine.network.state_dict() for engine in trained)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_loss_that_is_not_finite_names_its_cases(stores):
    engine = training(stores, "device")
    engine.loss_function = lambda logits, labels: logits.mean() * float("nan")
    with pytest.raises(NonFiniteLossError, match=r"patches of the cases: ct\d, ct\d"):
        engine.run()


def augmented(folder, data, place):
    """The small training with augmentation, on the device or by the workers."""
    transform = {
        "_target_": "transforms.PatchAugmentation",
        "patch_size": "@patch_size",
        "probability": OFTEN,
    }
    return small.config(
        folder, data, val_interval=2, train__dataset__transform=transform, train__dataset__augment_on=place
    )


def test_a_training_stopped_and_gone_on_with_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # preflight() replaces it
    data = small.write_dataset(tmp_path)
    folders = {}
    for name, place, stop in (("workers", "workers", -1), ("device", "device", -1), ("stopped", "device", 8)):
        folders[name] = tmp_path / name / "models"
        path = augmented(tmp_path / name, data, place)
        if stop > 0:
            monkeypatch.setenv("SMALL_STOP_AT", str(stop))
            monkeypatch.setenv("SMALL_STOP_BY", "SIGTERM")
            with pytest.raises(SystemExit):
                small.run(path)
            monkeypatch.undo()
            assert load_state(folders[name] / LAST)["inside"] == 2
            torch.manual_seed(1)
        small.run(path)
    expected = load_tensors(folders["workers"] / BEST)
    for name in ("device", "stopped"):
        assert equal(load_tensors(folders[name] / BEST), expected), name
    states = [without_times(load_state(folders[name] / LAST)) for name in ("device", "stopped")]
    for key in states[0].keys() - {"work", "run_id"}:
        assert equal(states[0][key], states[1][key]), key


def test_where_patches_are_augmented():
    augment, other = PatchAugmentation((8, 8, 8)), RandFlipd("image")
    expected = {
        ("auto", "cuda:1", augment): True,
        ("auto", "cpu", augment): False,
        ("auto", None, augment): False,
        ("auto", "cuda", other): False,
        ("auto", "cuda", None): False,
        ("workers", "cuda", augment): False,
        ("device", "cpu", augment): True,
        ("device", "cuda", None): False,
    }
    for arguments, answer in expected.items():
        assert augments_on_device(*arguments) is answer
    with pytest.raises(AugmentationPlaceError, match=re.escape("augment_on is 'gpu'; give 'auto', 'device'")):
        augments_on_device("gpu", "cuda", augment)
    with pytest.raises(
        AugmentationPlaceError, match="RandFlipd cannot be drawn in a worker and applied on the device"
    ):
        augments_on_device("device", "cuda", other)


def test_a_config_says_so_in_one_sentence(tmp_path):
    parser = ConfigParser()
    parser.read_config(str(augmented(tmp_path, small.write_dataset(tmp_path), "gpu")))
    parser.parse()
    parser.get_parsed_content("imports")
    with pytest.raises(Exception, match="PatchDataset") as caught:
        parser.get_parsed_content("train#dataset")
    assert isinstance(user_error(caught.value), AugmentationPlaceError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_never_waited_for(stores):
    loader = patch_loader(dataset(stores["window"], (8, 8, 8), "auto", device="cuda"), 4, 2)
    for batch in loader:
        assert batch["image"].is_pinned()
        torch.cuda.set_sync_debug_mode("error")
        try:
            image, label = prepare_patches(batch, torch.device("cuda"), non_blocking=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert image.shape == label.shape == (4, 1, 8, 8, 8)
        assert bool(image.isfinite().all())
