"""Windows to check an exported network with: of images, or made up where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from pipelines.data.inputs import find_inputs, is_dataset
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import TrainedModel

CASES, PER_CASE = 8, 4


def windows_of(trained: TrainedModel, path: str | os.PathLike[str]) -> Iterator[torch.Tensor]:
    """Windows (1, C, *window) of the first 8 cases of a path, 4 of each, as a prediction gives them to the network.

    Args:
        path: any input of `predict`; of a dataset, the training cases.

    Raises:
        InputError: there is no image.
    """
    split = "training" if is_dataset(Path(path)) else None
    cases = find_inputs(path, split, labels=trained.labels, channels=trained.preprocess.channels)
    dataset = VolumeDataset(cases[:CASES], trained.preprocess, labels=trained.labels)
    inferer = SlidingWindow(trained.patch_size, overlap=trained.overlap)
    for index in range(len(dataset)):
        item = dataset[index]
        assert "image" in item
        yield from inferer.some_windows(item["image"], PER_CASE, item.get("padding"))


def made_up_window(trained: TrainedModel) -> torch.Tensor:
    """A window (1, C, *window) of smooth structures with noise, in the range of normalised intensities."""
    generator = torch.Generator().manual_seed(0)
    size, channels = trained.patch_size, trained.preprocess.channels
    coarse = torch.randn((1, channels, *(max(2, n // 8) for n in size)), generator=generator)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    window = torch.nn.functional.interpolate(coarse, size, mode=mode)
    return window + 0.1 * torch.randn(window.shape, generator=generator)
