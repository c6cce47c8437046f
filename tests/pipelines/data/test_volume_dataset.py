"""Whole volumes of a dataset, one at a time."""

import os

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from tests.pipelines.small import NAMES
from transforms.preprocess import Preprocess


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stored", [False, True])
def test_whole_cases_arrive_with_their_label_and_geometry(cases, tmp_path, workers, stored):
    dataset = VolumeDataset(cases, Preprocess(spacing=2.0), tmp_path if stored else None, NAMES, 0)
    state = torch.get_rng_state()
    items = list(volume_loader(dataset, workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert [item["case"] for item in items] == ["ct0", "ct1", "ct2"]
    for item in items:
        assert item["image"].shape == (1, 1, *item["geometry"]["grid"])
        assert item["image"].dtype == torch.float32
        assert isinstance(item["label"], MetaTensor)
        assert tuple(item["label"].shape[1:]) == tuple(item["geometry"]["shape"])
        np.testing.assert_allclose(item["label"].affine.numpy(), item["geometry"]["affine"], atol=1e-6)
        assert os.path.exists(item["path"])


def test_images_out_of_the_store_are_those_of_the_file(cases, tmp_path):
    preprocess = Preprocess(spacing=2.0, crop_above=-900)
    for stored, read in zip(
        VolumeDataset(cases, preprocess, tmp_path, NAMES, 0), VolumeDataset(cases, preprocess), strict=False
    ):
        assert torch.equal(stored["image"], read["image"])
        assert list(stored["geometry"]["grid"]) == list(read["geometry"]["grid"])
