"""Inference on one clinical CT, from the preprocessed image to labels on the file's grid, compared with others.

    python -m benchmarks.inference                              # 2, 14 and 105 classes, MONAI
    python -m benchmarks.inference --peers monai nnunet         # also nnU-Net v2, if it is installed
    python -m benchmarks.inference --spacing none               # nothing resampled
    python -m benchmarks.inference --device cuda --precision bf16 --classes 14 105 --size 512 512 400
    python -m benchmarks.inference --untrained --size 512 512 400   # without data or download

The CT is the demo's (512 x 512 x 133, LIDC-IDRI-0001, CC BY 3.0) with the structures that its package labels;
a small UPerNet is trained on it once per number of classes and stored in data/benchmarks. With --size the CT is
repeated to that size, which is not realistic anatomy but takes the same time. With --untrained the image is a phantom of
smooth tissue and noise, and the network has random weights. All implementations get the same preprocessed image,
network, window and overlap, without mirroring:

- ours: pipelines.SlidingWindow row by row into transforms.spatial.restore.Restorer;
- monai: SlidingWindowInferer (Gaussian), softmax, Invertd of ResampleToMatchd and Orientationd on the
  probabilities (in groups of 15 classes, all at once does not fit 24 GB with 105), argmax. On CUDA it holds
  everything on the device, or, where that runs out of memory, everything but the windows on the host;
- nnunet: nnUNetPredictor and its conversion to a segmentation, whose windows lie elsewhere and whose logits
  are sums in half precision, so that its labels differ for these reasons too. On CUDA it has a precision of its own, fp16.

Each implementation runs in a separate process. Memory is the increase of the resident set during the prediction, at
its peak; the time of the network's forward passes is also reported separately, on CUDA by events on the device.
On CUDA, the fastest of --repeats runs is reported, and the device's memory is the peak of what torch allocated,
weights included. The GPU's share is the union of its kernels' times in an additional traced run, divided by the time of
the fastest run. fp32 uses TF32 in convolutions on CUDA, which is torch's default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_time import Timed, kernel_seconds
from benchmarks.inference_case import FOLDER, build, prepared, trained
from benchmarks.inference_ways import WAYS, Task
from pipelines.inference.memory_format import place
from pipelines.inference.precision import PRECISIONS
from pipelines.utils.resident_memory import forget_peak, resident
from transforms.spatial.geometry import Geometry, cropped, orient, resampled
from transforms.utils.memory import is_out_of_memory

# Runs after the first, in seconds: the figure of one that takes longer does not depend on its first calls.
LONG = 30.0

Figures = dict[str, Any]


def warm_up(geometry: Geometry, window: Sequence[int]) -> Geometry:
    """A small grid like the large one, for imports and first calls before the measurement."""
    spacing = None if geometry.grid == geometry.cropped_shape else geometry.prepared_spacing
    scale = [h / w for h, w in zip(geometry.cropped_shape, geometry.grid, strict=True)]
    grid = tuple(min(w, n) for w, n in zip(window, geometry.grid, strict=True))
    shape = [0, 0, 0]
    for oriented, axis in enumerate(geometry.axes):
        shape[axis] = round(grid[oriented] * scale[oriented])
    small = orient(shape, np.asarray(geometry.affine))
    small = cropped(small, tuple((0, n) for n in small.oriented_shape))
    small = resampled(small, spacing)
    return Geometry(small.shape, small.affine, small.axes, small.flips, small.crop, grid)


def predict(way: str, task: Task, network: Timed) -> tuple[np.ndarray, Figures]:
    """Labels and figures of one prediction.

    Raises:
        RuntimeError: the memory of the device is too small, see `is_out_of_memory`.
    """
    network.reset()
    with contextlib.suppress(OSError):
        forget_peak()
    before = resident("VmHWM")
    if task.cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    labels = WAYS[way](task, network)
    seconds = time.perf_counter() - start
    figures: Figures = {"seconds": seconds, "forward": network.seconds, "memory": resident("VmHWM") - before}
    if task.cuda:
        figures["device_memory"] = torch.cuda.max_memory_allocated()
    return labels, figures


def measure(way: str, options: argparse.Namespace, result: Path) -> None:
    """Measure one implementation in this process; prints the results as JSON and writes the labels."""
    device, classes, spacing = torch.device(options.device), options.classes[0], _spacing(options)
    network = build(classes).eval() if options.untrained else trained(classes, spacing, options.steps, device)
    precision = options.precision[0]
    if device.type == "cuda":
        network = place(network, device, channels_last=precision != "fp32")
    image, made = prepared(options.size, spacing, options.untrained)
    window = (options.window,) * 3
    at_once = options.at_once[0]
    task = Task(image, made.geometry, classes, options.overlap, window, device, precision, device, at_once)
    if way == "nnunet":
        with contextlib.suppress(ImportError):  # imported before the measurement
            import nnunetv2.inference.predict_from_raw_data  # noqa: F401
    timed = Timed(network, device)
    with torch.inference_mode():
        small = warm_up(made.geometry, window)
        corner = image[(..., *(slice(n) for n in small.grid))]
        WAYS[way](task._replace(image=corner, geometry=small), timed)
        labels, figures = _repeated(way, task, timed, options.repeats)
    np.save(result, labels)
    print(json.dumps(figures))


def _repeated(way: str, task: Task, network: Timed, repeats: int) -> tuple[np.ndarray, Figures]:
    """The fastest of some predictions on CUDA, and its share of kernels; on a CPU a single one."""
    if not task.cuda:
        return predict(way, task, network)
    note = ""
    try:
        labels, figures = predict(way, task, network)
    except RuntimeError as error:
        if way != "monai" or not is_out_of_memory(error):
            raise
        note = f"stitched on the host, out of memory on the device at {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    if note:
        # After the except block, because the error keeps references to the tensors of its stack frames.
        torch.cuda.empty_cache()
        task = task._replace(stitching=torch.device("cpu"))
        labels, figures = predict(way, task, network)
    figures["first"] = figures["seconds"]
    for _ in range(repeats - 1 if figures["first"] < LONG else 0):
        labels, again = predict(way, task, network)
        # What the first run took of the host's memory, later ones find there.
        again = {**figures, "seconds": again["seconds"], "forward": again["forward"]}
        figures = min(figures, again, key=lambda one: one["seconds"])
    figures["busy"] = kernel_seconds(lambda: WAYS[way](task, network))
    return labels, {**figures, "note": note}


def _spacing(options: argparse.Namespace) -> float | None:
    return None if options.spacing == "none" else float(options.spacing)


def _passed(options: argparse.Namespace) -> Iterator[str]:
    """The arguments of the process of one implementation, apart from its name, the classes and the precision."""
    for key in ("spacing", "overlap", "steps", "device", "window", "repeats"):
        yield from (f"--{key}", str(getattr(options, key)))
    if options.size:
        yield from ("--size", *map(str, options.size))
    if options.untrained:
        yield "--untrained"


def run_way(
    way: str, classes: int, precision: str, options: argparse.Namespace, at_once: int = 0
) -> Figures | None:
    """The results of an implementation, measured in a separate process; None if it failed (see its output)."""
    command = [sys.executable, "-m", "benchmarks.inference", "--measure", way, "--classes", str(classes)]
    command += ["--precision", precision, "--at-once", str(at_once), *_passed(options)]
    output = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if output.returncode:
        if way == "ours":
            raise SystemExit(f"ours failed with exit status {output.returncode}, see above")
        print(
            f"{classes:4} classes {precision} {way:7} failed with exit status {output.returncode}", flush=True
        )
        return None
    one: Figures = json.loads(output.stdout.strip().splitlines()[-1])
    batch = f" ({at_once} windows at once)" if at_once else ""
    line = (
        f"{classes:4} classes {precision} {way:7}{batch} {one['seconds']:7.2f} s, {one['forward']:7.2f} s in the network, "
        f"{one['memory'] / 2**20:7.0f} MiB"
    )
    if "device_memory" in one:
        share = f"{100 * one['busy'] / one['seconds']:.0f}%" if one["busy"] else "unknown share"
        line += f", {one['device_memory'] / 2**20:.0f} MiB of the device, which computes {share} of the time"
        line += f" (first run {one['first']:.2f} s) {one['note']}"
    print(line, flush=True)
    return one


def compare(
    classes: int, precision: str, way: str, figures: dict[str, Figures], equal: float, found: int
) -> None:
    """The lines that other programs read."""
    mine, peer = figures["ours"], figures[way]
    kind = "" if precision == "fp32" and "device_memory" not in mine else f"{precision}_"
    where = f"{classes}_classes_{kind}vs_{way}"
    outside, theirs = (one["seconds"] - one["forward"] for one in (mine, peer))

    def result(name: str, ours: float, other: float, form: str) -> None:
        ratio = other / ours if ours > 0 else math.nan
        print(f"RESULT {name}_{where} ours={ours:{form}} peer={other:{form}} ratio={ratio:.2f}")

    result("seconds", mine["seconds"], peer["seconds"], ".2f")
    result("seconds_outside_network", outside, theirs, ".2f")
    result("extra_memory_mib", mine["memory"] / 2**20, peer["memory"] / 2**20, ".0f")
    if "device_memory" in mine:
        result("device_memory_mib", mine["device_memory"] / 2**20, peer["device_memory"] / 2**20, ".0f")
        result("share_computing", mine["busy"] / mine["seconds"], peer["busy"] / peer["seconds"], ".3f")
    print(f"RESULT equal_labels_{where} ours={found}_classes_found peer=- ratio={equal:.6f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 14, 105])
    parser.add_argument("--peers", nargs="*", choices=["monai", "nnunet"], default=["monai"])
    parser.add_argument("--spacing", default="2.0", help="mm, or none for the file's own grid")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--window", type=int, default=96, help="side of the window in voxels")
    parser.add_argument("--steps", type=int, default=200, help="training steps of the network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--size", type=int, nargs=3, help="voxels of the CT, the demo's if not given")
    parser.add_argument(
        "--untrained", action="store_true", help="random weights and a phantom: needs no data"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs on CUDA, of which the fastest counts")
    parser.add_argument(
        "--at-once",
        type=int,
        nargs="+",
        default=[0],
        help="windows of ours in a forward pass, 0 for its own choice",
    )
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.measure:
        measure(options.measure, options, FOLDER / f"labels_{options.measure}.npy")
        return
    for classes in options.classes:
        if not options.untrained:
            trained(classes, _spacing(options), options.steps, torch.device(options.device))
        for precision in options.precision:
            figures: dict[str, Figures] = {}
            for way in ["ours", *options.peers]:
                one = run_way(way, classes, precision, options)
                if one is None:
                    continue
                figures[way] = one
                if way != "ours":
                    labels, theirs = (
                        np.load(FOLDER / f"labels_{name}.npy", mmap_mode="r") for name in ("ours", way)
                    )
                    equal, found = float((labels == theirs).mean()), len(np.unique(labels))
                    compare(classes, precision, way, figures, equal, found)
            for at_once in options.at_once:
                if at_once:
                    run_way("ours", classes, precision, options, at_once)


if __name__ == "__main__":
    main()
