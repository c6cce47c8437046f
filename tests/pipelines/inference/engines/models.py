"""Small trained models for exports: one that is right without training, and a real network."""

import json
from pathlib import Path

import torch

from networks import R2UNet
from tests.pipelines.small import NAMES
from transforms.preprocess import Preprocess
from transforms.utils.files import sha256_of

SMALL = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "features": [4, 8]}


def write_r2unet(folder: Path, seed: int = 0) -> Path:
    """`model.pt` and `model.json` of an R2U-Net in 2D with random weights; returns the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    path = folder / "model.pt"
    torch.save(R2UNet(**SMALL).state_dict(), path)
    card = {
        "labels": {str(value): NAMES[value] for value in range(3)},
        "patch_size": [16, 16],
        "preprocessing": Preprocess().parameters(),
        "network": {"_target_": "networks.R2UNet", **SMALL},
        "sha256": sha256_of(path),
        "validation": [{"case": "jane_doe", "dice": {"lung": 0.5, "liver": None}}],
    }
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return path
