"""Time to compute the metrics of a case, compared with MONAI; equal values are required for equal definitions.

    python -m benchmarks.metrics                       # 256 x 256 x 128, 14 classes: about a minute
    python -m benchmarks.metrics --shape 128 128 64 --rounds 1

"Counting" comprises all overlap metrics: those of this project from one confusion matrix, MONAI's DiceMetric from
one-hot label maps, as in its tutorials (AsDiscrete). "Surfaces" comprises HD95, mean distance and surface Dice of all
classes; MONAI's three metrics are timed together, its surface Dice with `use_subvoxels`, whose definition is the one
of this project. Medians of the rounds, one thread by default (--threads).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SPACING = (0.8, 0.8, 2.0)


def structures(shape: tuple[int, ...], classes: int, seed: int) -> np.ndarray:
    """Smooth organ-like structures, together about a twentieth of the volume, uint8."""
    random = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    grid = np.indices(shape, dtype=np.float32)
    wobble = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 6).astype(np.float32)
    wobble *= 0.08 / wobble.std()
    for value in range(1, classes + 1):
        centre = random.uniform(0.2, 0.8, 3) * shape
        radii = random.uniform(0.05, 0.12, 3) * shape
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        labels[np.sqrt(distance) + wobble < 1] = value
    return labels


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    from monai.transforms import AsDiscrete

    return AsDiscrete(to_onehot=classes)(labels)[None]


def seconds(run: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    times, result = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 128))
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    from monai.metrics import (
        DiceMetric,
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    from pipelines.metrics.overlap import confusion_matrix, overlap_metrics
    from pipelines.metrics.surfaces import surface_metrics

    classes, shape = options.classes, tuple(options.shape)
    names = [f"class_{value}" for value in range(1, classes + 1)]
    prediction, reference = (structures(shape, classes, seed) for seed in (1, 2))
    pair = [torch.from_numpy(labels) for labels in (prediction, reference)]
    print(
        f"{shape}, {classes} classes, {np.mean(reference > 0):.1%} foreground, {options.threads} threads",
        flush=True,
    )

    def ours() -> dict[str, dict[str, float]]:
        return overlap_metrics(confusion_matrix(*pair, classes + 1), names, 1.0)

    def theirs() -> torch.Tensor:
        metric = DiceMetric(include_background=False, reduction="none")
        return metric(*(one_hot(labels[None], classes + 1) for labels in pair))[0]

    counting, found = seconds(ours, 5 * options.rounds)
    peer, expected = seconds(theirs, options.rounds)
    np.testing.assert_allclose(list(found["dice"].values()), expected.numpy(), atol=1e-6)
    print(f"counting: ours {counting:.4f} s, MONAI {peer:.3f} s", flush=True)

    affine = np.diag([*SPACING, 1.0])
    surfaces, measured = seconds(
        lambda: surface_metrics(prediction, reference, names, affine, 2.0), options.rounds
    )
    hot = [one_hot(labels[None], classes + 1) for labels in pair]

    def monai_surfaces() -> torch.Tensor:
        compute_hausdorff_distance(*hot, percentile=95, spacing=SPACING)
        compute_average_surface_distance(*hot, symmetric=True, spacing=SPACING)
        return compute_surface_dice(*hot, [2.0] * classes, spacing=SPACING, use_subvoxels=True)[0]

    peer_surfaces, nsd = seconds(monai_surfaces, 1)
    np.testing.assert_allclose(list(measured["nsd"].values()), nsd.numpy(), atol=1e-5)
    print(f"surfaces: ours {surfaces:.3f} s, MONAI {peer_surfaces:.2f} s", flush=True)
    for name, own, other in (
        ("counting_seconds", counting, peer),
        ("surface_seconds", surfaces, peer_surfaces),
    ):
        print(f"RESULT {name}_{classes}_classes ours={own:.4f} peer={other:.3f} ratio={own / other:.4f}")


if __name__ == "__main__":
    main()
