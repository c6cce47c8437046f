"""One step of Muon against one of fused AdamW, and against forward and backward. Run as ``python -m benchmarks.optimizers``.

The networks are those of the bundles for images of one channel and three classes, on two patches of 32^3. All are measured
in turn in one process; the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import wall_seconds
from networks.group_norm import LAYOUTS
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from pipelines.planning.step_process import prepared
from pipelines.training.losses import SegLoss
from pipelines.training.muon import Muon

BUNDLES = Path(__file__).parents[1] / "bundles"
FEATURES = {
    "r2unet, 16 channels": ("r2unet", [16, 32, 64, 128]),
    "r2unet, 32 channels": ("r2unet", [32, 64, 128, 256, 320]),
    "upernet, resnet18": ("upernet", []),
}
"""Bundle and channels per level."""


def network_of(bundle: str, features: list[int]) -> nn.Module:
    """The network of a bundle, as its train.json defines it."""
    config = json.loads((BUNDLES / bundle / "train.json").read_text(encoding="utf-8"))
    knobs = {"spacing": [1.0] * 3, "patch_size": [32] * 3, "batch_size": 2, "features": features}
    used = {name: value for name, value in knobs.items() if name in config}
    return prepared(config, used, channels=1, classes=3).get_parsed_content("network_def")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = resolve_precision(AUTO, device)
    loss = SegLoss()
    print(
        f"{'network':20}  weights  forward, backward (ms)  AdamW (ms)  Muon (ms)  a whole step, Muon to AdamW"
    )
    for name, (bundle, features) in FEATURES.items():
        torch.manual_seed(0)
        network = place(network_of(bundle, features), device, AUTO, precision)
        image = torch.randn(2, 1, 32, 32, 32, device=device).contiguous(memory_format=LAYOUTS[5])
        label = torch.randint(3, (2, 1, 32, 32, 32), device=device)

        def passes(network: nn.Module = network, x: torch.Tensor = image, y: torch.Tensor = label) -> None:
            network.zero_grad()
            with autocast(device, precision):
                logits = network(x)
            loss(logits, y).backward()

        runs: dict[str, Callable[[], object]] = {"passes": passes}
        for kind in (torch.optim.AdamW, Muon):
            runs[kind.__name__] = kind(network.parameters(), 1e-6, fused=True).step
        times: dict[str, list[float]] = {key: [] for key in runs}
        for number in range(arguments.rounds + 1):
            for key, run in runs.items():
                spent = 1e3 * wall_seconds(run, device)
                if number:
                    times[key].append(spent)
        found = {key: statistics.median(values) for key, values in times.items()}
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        ratio = (found["passes"] + found["Muon"]) / (found["passes"] + found["AdamW"])
        print(
            f"{name:20}  {millions:5.1f} M  {found['passes']:22.0f}  {found['AdamW']:10.1f}  {found['Muon']:9.1f}  {ratio:10.2f}"
        )


if __name__ == "__main__":
    main()
