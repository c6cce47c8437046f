"""MONAI's SegResNet and DynUNet, trained for so many minutes by MONAI's usual recipe and by Auto3DSeg's settings.

    python -m benchmarks.accuracy.monai_peer DATASET --network segresnet --minutes 15 --out DIR

`segresnet` is Auto3DSeg's algorithm of that name: SegResNetDS of 32 filters with deep supervision, AdamW of 2e-4 with
warm-up and cosine, DiceCE, its augmentations and crops by class (`auto3dseg_segresnet` in the Project MONAI research
contributions). `dynunet` is the usual script of MONAI's tutorials: CacheDataset, crops around labelled voxels, flips and
intensity shifts, Adam of 1e-4 with cosine, DiceCE. Both get the spacing of the first training case, the whole image as a
patch where it is small, else 96 voxels along an axis (Auto3DSeg would take what fits the memory of a GPU). As the other
contestants they end in the minutes, loading and caching included: some steps are timed, and the schedule is set so. The
prediction (half overlap, Gaussian) is outside of the minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.inferers import sliding_window_inference
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import DynUNet, SegResNetDS
from monai.utils import set_determinism

from pipelines.data.cases import Dataset
from pipelines.data.dataset_folder import load_dataset

WARM, TIMED = 3, 6
KEPT_BACK = 0.03
LONGEST = 96
KEYS = ("image", "label")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--network", choices=["segresnet", "dynunet"], required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.perf_counter()
    set_determinism(given.seed)
    torch.use_deterministic_algorithms(False)
    dataset = load_dataset(given.dataset)
    first = mt.LoadImage(image_only=True, ensure_channel_first=True)(dataset.training[0].image)
    if first.ndim == 3:
        raise SystemExit(f"{given.dataset} holds pictures; these recipes are for volumes")
    spacing = [float(mm) for mm in first.pixdim[:3]]
    size = list(first.shape[1:])
    patch = [LONGEST if n > LONGEST else 16 * -(-n // 16) for n in size]
    window = (-1000.0, 1000.0) if float(first.min()) < -500 else None
    cached = CacheDataset(
        _items(dataset.training),
        mt.Compose([*_loading(spacing, window), *_varying(given.network, patch, dataset)]),
    )
    report = _train(given, dataset, cached, patch, begun)
    _predict(given, dataset, report.pop("network"), mt.Compose(_loading(spacing, window, label=False)), patch)
    (given.out / "report.json").write_text(
        json.dumps(report | {"patch_size": patch}, indent=2), encoding="utf-8"
    )


def _items(cases: Any) -> list[dict[str, str]]:
    return [{"image": str(case.image), "label": str(case.label)} for case in cases]


def _loading(spacing: list[float], window: tuple[float, float] | None, label: bool = True) -> list[Any]:
    keys = KEYS if label else KEYS[:1]
    return [
        mt.LoadImaged(keys, ensure_channel_first=True),
        mt.Orientationd(keys, axcodes="RAS", labels=None),
        mt.Spacingd(keys, pixdim=spacing, mode=("bilinear", "nearest")[: len(keys)]),
        mt.ScaleIntensityRanged("image", *window, -1, 1, clip=True)
        if window
        else mt.NormalizeIntensityd("image", nonzero=True),
    ]


def _varying(network: str, patch: list[int], dataset: Dataset) -> list[Any]:
    padded = mt.SpatialPadd(KEYS, patch)
    flips = [mt.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)]
    if network == "dynunet":
        return [
            padded,
            mt.RandCropByPosNegLabeld(KEYS, "label", patch, pos=1, neg=1, num_samples=1),
            *flips,
            mt.RandScaleIntensityd("image", 0.1, prob=0.5),
            mt.RandShiftIntensityd("image", 0.1, prob=0.5),
        ]
    return [
        padded,
        mt.RandCropByLabelClassesd(
            KEYS, "label", patch, num_classes=dataset.num_classes, num_samples=1, warn=False
        ),
        mt.RandAffined(
            KEYS,
            prob=0.2,
            rotate_range=[0.26] * 3,
            scale_range=[0.2] * 3,
            mode=("bilinear", "nearest"),
            spatial_size=patch,
            padding_mode="border",
        ),
        mt.RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
        mt.RandScaleIntensityd("image", 0.3, prob=0.5),
        mt.RandShiftIntensityd("image", 0.1, prob=0.5),
        mt.RandGaussianNoised("image", prob=0.2, std=0.1),
        *flips,
    ]


def _network(name: str, channels: int, classes: int, patch: list[int]) -> torch.nn.Module:
    if name == "segresnet":
        return SegResNetDS(
            in_channels=channels,
            out_channels=classes,
            init_filters=32,
            blocks_down=(1, 2, 2, 4, 4),
            norm="instance",
            dsdepth=4,
        )
    levels = 4 if min(patch) >= 64 else 3
    return DynUNet(
        3,
        channels,
        classes,
        kernel_size=[3] * levels,
        strides=[1, *[2] * (levels - 1)],
        upsample_kernel_size=[2] * (levels - 1),
        res_block=True,
    )


def _train(
    given: argparse.Namespace, dataset: Dataset, cached: CacheDataset, patch: list[int], begun: float
) -> dict[str, Any]:
    auto = given.network == "segresnet"
    batch = 2
    channels = cached[0][0]["image"].shape[0]
    loss: Any = DiceCELoss(
        include_background=not auto,
        to_onehot_y=True,
        softmax=True,
        squared_pred=auto,
        smooth_nr=0,
        smooth_dr=1e-5,
    )
    loss = DeepSupervisionLoss(loss) if auto else loss
    network = _network(given.network, channels, dataset.num_classes, patch)
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(network.parameters(), 2e-4, weight_decay=1e-5)
        if auto
        else torch.optim.Adam(network.parameters(), 1e-4, weight_decay=1e-5)
    )
    loader = DataLoader(
        cached, batch_size=batch, shuffle=True, num_workers=1, drop_last=True, persistent_workers=True
    )

    def endless() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from loader

    def step(item: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss(network(item["image"]), item["label"]).backward()
        optimizer.step()

    batches = endless()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    for index in range(WARM + TIMED):
        if index == WARM:
            timed = time.perf_counter()
        step(next(batches))
    seconds = (time.perf_counter() - timed) / TIMED
    network.load_state_dict(start)
    optimizer.state.clear()
    steps = int((given.minutes * 60 - (time.perf_counter() - begun)) * (1 - KEPT_BACK) / seconds)
    if steps < 1:
        raise SystemExit(f"{given.minutes:g} minutes are too short: a step takes {seconds:.1f} s")
    warm = steps // 100 if auto else 0
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda at: (
            (at + 1) / (warm + 1) if at < warm else 0.5 * (1 + np.cos(np.pi * (at - warm) / (steps - warm)))
        ),
    )
    for at in range(steps):
        step(next(batches))
        schedule.step()
        if at % 50 == 0:
            print(f"step {at} of {steps}, {(time.perf_counter() - begun) / 60:.1f} min", flush=True)
    return {
        "minutes": (time.perf_counter() - begun) / 60,
        "steps": steps,
        "seconds_of_a_step": seconds,
        "batch_size": batch,
        "parameters": sum(p.numel() for p in network.parameters()),
        "network": network,
    }


def _predict(
    given: argparse.Namespace,
    dataset: Dataset,
    network: torch.nn.Module,
    loading: mt.Compose,
    patch: list[int],
) -> None:
    network.eval()
    load = mt.LoadImage(image_only=True, ensure_channel_first=True)
    onto, label = mt.ResampleToMatch(mode="bilinear", padding_mode="border"), mt.AsDiscrete(argmax=True)
    save = mt.SaveImage(
        given.out / "masks",
        output_postfix="",
        output_ext=".nii.gz",
        separate_folder=False,
        output_dtype=np.uint8,
        resample=False,
        print_log=False,
    )
    for case in dataset.validation:
        image = loading({"image": str(case.image)})["image"]
        with torch.no_grad():
            logits = sliding_window_inference(image[None], patch, 2, network, overlap=0.5, mode="gaussian")[0]
        save(label(onto(MetaTensor(logits, affine=image.affine), load(case.image))))


if __name__ == "__main__":
    main()
