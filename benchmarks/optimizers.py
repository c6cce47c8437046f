"""One step of Muon against one of fused AdamW, and against forward and backward. Run as ``python -m benchmarks.optimizers``.

The networks are those of the bundles for images of one channel and three classes, on two patches of 32^3. All are measured
in turn in one process; the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from networks import R2UNet, UPerNet, strides_for
from networks.group_norm import LAYOUTS
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from pipelines.training.losses import SegLoss
from pipelines.training.muon import Muon

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "r2unet, 16 channels": lambda: R2UNet(3, 1, 3, features=(16, 32, 64, 128), norm="instance"),
    "r2unet, 32 channels": lambda: R2UNet(3, 1, 3, features=(32, 64, 128, 256, 320), norm="instance"),
    "upernet, resnet18": lambda: UPerNet(
        3,
        1,
        3,
        encoder="resnet18",
        norm="instance",
        refine=True,
        fpn_channels=32,
        strides=strides_for((32, 32, 32), (1.0, 1.0, 1.0), 5),
    ),
}


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


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
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network = place(build(), device, AUTO, precision)
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
                spent = milliseconds(run, device)
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
