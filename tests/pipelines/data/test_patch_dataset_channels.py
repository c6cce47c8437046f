"""Patches of images of several channels."""

import json

import numpy as np
import pytest
import torch

from pipelines.data.dataset_folder import load_dataset
from pipelines.data.patch_dataset import PatchDataset
from pipelines.data.volume_dataset import VolumeDataset
from tests.pipelines.channels import decathlon, listed, nnunet
from transforms.preprocess import Preprocess

WORDS = ["FLAIR", "noNorm", "rescale_to_0_1", "zscore"]


def patches(dataset, root, size=(16, 16, 16), **options):
    preprocess = Preprocess(window=None, channels=dataset.num_channels, normalization=WORDS)
    data = sorted(
        dataset.as_dicts("training") + dataset.as_dicts("validation"), key=lambda item: item["case"]
    )
    found = PatchDataset(
        data, size, 6, preprocess, root, labels=dataset.labels, num_workers=0, progress=False, **options
    )
    return [found[index] for index in range(6)]


def test_every_layout_gives_the_same_patches(tmp_path):
    wanted = patches(load_dataset(decathlon(tmp_path / "a")), tmp_path / "s")
    assert wanted[0]["image"].shape == (4, 16, 16, 16)
    for layout in (nnunet, listed):
        found = patches(load_dataset(layout(tmp_path / layout.__name__)), tmp_path / "s")
        for one, other in zip(wanted, found, strict=True):
            assert one["case"] == other["case"]
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["label"], other["label"])


def test_a_patch_beyond_the_image_is_padded_channel_by_channel(tmp_path):
    dataset = load_dataset(nnunet(tmp_path / "a"))
    image = patches(dataset, tmp_path / "s", (40, 40, 40))[0]["image"]
    inside = image[:, 5:35, 7:33, 11:29]
    outside = image[:, 0, 0, 0]
    assert torch.equal(outside, inside.amin((1, 2, 3)))
    assert len(outside.unique()) == 3, "values as they are and rescaled ones begin at 0 alike"
    item = VolumeDataset(dataset.as_dicts("test"), Preprocess(window=None, channels=4, normalization=WORDS))[
        0
    ]
    assert item["padding"] == pytest.approx(item["image"][0].amin((1, 2, 3)).tolist())


def test_a_window_for_channels_that_are_ct_alone(tmp_path):
    root = nnunet(tmp_path / "a", channel_names={"0": "CT", "1": "T1w", "2": "t1gd", "3": "T2w"})
    dataset = load_dataset(root)
    preprocess = Preprocess(window=(-100, 300), channels=4, normalization=["CT", "T1w", "t1gd", "T2w"])
    image = VolumeDataset(dataset.as_dicts("test"), preprocess)[0]["image"][0]
    assert float(image[0].min()) == np.float32(2 * 100 / 400 - 1)
    assert float(image[0].max()) == 1.0
    assert all(abs(float(channel[channel > channel.min()].mean())) < 1e-2 for channel in image[1:])
    assert json.loads(json.dumps(preprocess.parameters())) == preprocess.parameters()
