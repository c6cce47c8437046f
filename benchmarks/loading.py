"""Loading augmented batches from the patch store to the device: whether it is fast enough for the training steps.

    python -m benchmarks.loading                                      # patches per second, this machine
    python -m benchmarks.loading --step-seconds 0.25                  # also the share of 0.25 s steps that wait for data
    python -m benchmarks.loading --device cuda --size 128 --batch 2 --network r2unet --peers monai nnunet
    python -m benchmarks.loading --parts                              # milliseconds per part of the CPU's work

The cohort is the demo's training CT (512 x 512 x 133, LIDC-IDRI-0001, CC BY 3.0) at 1.5 mm if `data/demo` exists,
otherwise, or with --synthetic, four synthetic volumes of 256 x 256 x 160. All contestants augment with the
probabilities and bounds of `PatchAugmentation`, which are nnU-Net's, and use torch's loader with the same number of
workers:

- ours workers: PatchDataset and PatchAugmentation in the loader's workers;
- ours device: drawn in the workers, applied on the device (augment_on);
- monai: LoadImaged, Orientationd, Spacingd and CropForegroundd cached in memory by CacheDataset, then
  RandCropByPosNegLabeld, RandAffined and MONAI's random intensities;
- nnunet: nnU-Net v2's get_training_transforms (batchgeneratorsv2) on patches of our store, read with nnU-Net's
  margin, where nnunetv2 is installed.

Each contestant runs in a separate process, rounds interleaved, medians. A step counts as waiting if it waits for its
batch for more than 2% of its time. The step is a real one of a network (--network) or a sleep (--step-seconds), which
stands for a step on a GPU that leaves the CPU idle. Here the host waits for the device after each step, so that all
waiting is measured; in a training, work queued on the device hides a part of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.measure import run_apart
from benchmarks.patches import data_list, generate
from networks import R2UNet, UPerNet
from networks.group_norm import LAYOUTS
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.patch_dataset import PatchDataset, PatchSampler
from pipelines.data.patch_store import PatchStore
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from pipelines.training.losses import SegLoss
from pipelines.training.timing import WAITS
from pipelines.training.trainer import prepare_patches
from pipelines.utils.cores import available_cores
from transforms.augmentation.patch_augmentation import PatchAugmentation
from transforms.preprocess import Preprocess

PROBABILITY = PatchAugmentation.PROBABILITY
DEMO = Path("data/demo")
ROTATION = np.pi / 6
ENDLESS = 10**6

Batch = Mapping[str, Any]
Prepare = Callable[[Batch, torch.device], tuple[torch.Tensor, torch.Tensor]]
# The dataset, further arguments of its loader, and the function that makes a batch on the device from its output.
Contestant = tuple[Any, dict[str, Any], Prepare]


def cohort(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Preprocess]:
    """The cases and their preprocessing; synthetic ones are created at the first call."""
    if DEMO.is_dir() and not args.synthetic:
        return load_dataset(DEMO).as_dicts("training"), Preprocess(spacing=1.5, crop_above=-500)
    folder = args.folder / "data"
    if not folder.is_dir():
        generate(folder, (256, 256, 160), 4)
    return data_list(folder, 4), Preprocess()


def stored(args: argparse.Namespace) -> PatchStore:
    data, preprocess = cohort(args)
    return PatchStore(args.folder / "store", preprocess, data, progress=False).build()


def size_of(args: argparse.Namespace) -> tuple[int, ...]:
    return (args.size,) * args.dims


def our_dataset(args: argparse.Namespace, augment_on: str, transform: Any = None) -> PatchDataset:
    transform = transform or PatchAugmentation(size_of(args))
    return PatchDataset(stored(args), size_of(args), ENDLESS, transform=transform, augment_on=augment_on)


def loader_of(dataset: Any, args: argparse.Namespace, workers: int, options: Mapping[str, Any]) -> DataLoader:
    """As `pipelines.patch_loader` makes it."""
    return DataLoader(
        dataset, args.batch, num_workers=workers, pin_memory=args.device.startswith("cuda"), **options
    )


def ours(augment_on: str) -> Callable[[argparse.Namespace], Contestant]:
    def make(args: argparse.Namespace) -> Contestant:
        dataset = our_dataset(args, augment_on)
        options = {"sampler": PatchSampler(dataset), "collate_fn": dataset.collate}
        return dataset, options, lambda batch, device: prepare_patches(batch, device, non_blocking=True)

    return make


def monai(args: argparse.Namespace) -> Contestant:
    from monai import transforms as m
    from monai.data import CacheDataset, list_data_collate

    data, preprocess = cohort(args)
    both, dims, chance = ["image", "label"], args.dims, PROBABILITY
    rotation = [ROTATION] * (3 if dims == 3 else 1)
    zoom = [(1 / 1.4 - 1, 1 / 0.7 - 1)] * dims
    patch = size_of(args) if dims == 3 else (*size_of(args), 1)
    steps: list[Any] = [
        m.LoadImaged(both, ensure_channel_first=True),
        m.Orientationd(both, "RAS", labels=None),
        m.Spacingd(both, [preprocess.spacing] * 3, mode=("bilinear", "nearest"))
        if preprocess.spacing
        else None,
        m.CropForegroundd(both, "image", lambda x: x > -500) if preprocess.crop_above else None,
        m.ScaleIntensityRanged("image", -1000, 1000, -1, 1, clip=True),
        m.SpatialPadd(both, patch),
        m.RandCropByPosNegLabeld(both, "label", patch, pos=1, neg=2, num_samples=1),
        m.SqueezeDimd(both, -1) if dims == 2 else None,
        m.RandAffined(
            both,
            prob=1 - (1 - chance["rotation"]) * (1 - chance["scale"]),
            rotate_range=rotation,
            scale_range=zoom,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
        m.RandGaussianNoised("image", chance["noise"], std=0.1),
        m.RandGaussianSmoothd("image", *[(0.5, 1.0)] * 3, prob=chance["blur"]),
        m.RandScaleIntensityd("image", 0.25, chance["brightness"]),
        m.RandScaleIntensityFixedMeand("image", chance["contrast"], 0.25, preserve_range=True),
        m.RandSimulateLowResolutiond(
            "image",
            chance["low_resolution"],
            upsample_mode="trilinear" if dims == 3 else "bilinear",
            zoom_range=(0.5, 1.0),
        ),
        m.RandAdjustContrastd(
            "image", chance["gamma_inverted"], (0.7, 1.5), invert_image=True, retain_stats=True
        ),
        m.RandAdjustContrastd("image", chance["gamma"], (0.7, 1.5), retain_stats=True),
        *[m.RandFlipd(both, chance["flip"], axis) for axis in range(dims)],
    ]
    dataset = CacheDataset(
        data, m.Compose([step for step in steps if step is not None]), num_workers=0, progress=False
    )
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
    return dataset, {"sampler": sampler, "collate_fn": list_data_collate}, moved


def nnunet(args: argparse.Namespace) -> Contestant:
    dataset = our_dataset(args, "workers", NnunetAugmentation(size_of(args)))
    return dataset, {"sampler": PatchSampler(dataset)}, moved


class NnunetAugmentation:
    """nnU-Net's transforms behind the interface of a `PatchDataset`'s augmentation."""

    def __init__(self, size: Sequence[int]) -> None:
        from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        turn = (-ROTATION, ROTATION)
        read = get_patch_size(size, turn, turn, turn, (0.85, 1.25))  # as in nnUNetTrainer
        self.read = [p + 2 * -(-(int(r) - p) // 2) for p, r in zip(size, read, strict=True)]
        self.transforms = nnUNetTrainer.get_training_transforms(
            np.array(size), turn, None, tuple(range(len(size))), do_dummy_2d_data_aug=False
        )

    def source_size(self) -> list[int]:
        return self.read

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        varied = self.transforms(image=item["image"], segmentation=item["label"].to(torch.int16))
        return {"image": varied["image"], "label": varied["segmentation"], "case": item["case"]}


def moved(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = prepare_patches(batch, device, non_blocking=True)
    return image, label.to(torch.int16)


CONTESTANTS: dict[str, Callable[[argparse.Namespace], Contestant]] = {
    "ours workers": ours("workers"),
    "ours device": ours("device"),
    "monai": monai,
    "nnunet": nnunet,
}


def step_of(args: argparse.Namespace) -> Callable[[torch.Tensor, torch.Tensor], object]:
    """A real training step of a network, or sleep."""
    if args.network is None:
        return lambda image, label: time.sleep(args.step_seconds)
    device = torch.device(args.device)
    network: torch.nn.Module
    if args.network == "r2unet":
        network = R2UNet(args.dims, 1, 4, (16, 32, 64, 128, 256), num_steps=2)
    else:
        network = UPerNet(args.dims, 1, 4, encoder="resnet18", refine=True)
    network = place(network, device, "auto").train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    loss_of = SegLoss()
    layout = LAYOUTS[args.dims + 2]

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, resolve_precision(AUTO, device)):
            logits = network(image.contiguous(memory_format=layout))
        loss_of(logits.float(), label).mean().backward()
        optimizer.step()

    return step


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def endless(loader: DataLoader) -> Iterator[Batch]:
    while True:
        yield from loader


def throughput(
    batches: Iterator[Batch], prepare: Prepare, args: argparse.Namespace, workers: int
) -> dict[str, float]:
    device, count, used = torch.device(args.device), 0, 0.0
    for _ in range(2 * workers + 2):
        prepare(next(batches), device)
    synchronise(device)
    started, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < args.seconds or count < 4:
        prepare(next(batches), device)
        count += 1
    synchronise(device)
    seconds = time.perf_counter() - started
    return {
        f"patches {workers}": count * args.batch / seconds,
        # of the main process alone, which does everything only without workers
        f"main ms {workers}": 1e3 * (time.process_time() - used) / count / args.batch,
    }


def waiting(
    batches: Iterator[Batch], prepare: Prepare, args: argparse.Namespace, workers: int
) -> dict[str, float]:
    device, step = torch.device(args.device), step_of(args)
    waits, totals = [], []
    for number in range(args.steps + 5):
        started = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        step(*prepare(batch, device))
        synchronise(device)
        if number >= 5:  # the first steps fill the queue and are the warm-up
            waits.append(got - started)
            totals.append(time.perf_counter() - started)
    late = [wait > WAITS * total for wait, total in zip(waits, totals, strict=True)]
    return {
        f"late {workers}": sum(late) / len(late),
        f"share {workers}": sum(waits) / sum(totals),
        f"step {workers}": statistics.median(totals),
    }


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """All results of one contestant; must be called in a new process."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    figures: dict[str, float] = {}
    dataset, options, prepare = CONTESTANTS[name](args)
    for workers in args.workers:
        loader = loader_of(dataset, args, workers, options)
        batches = endless(loader)
        figures |= throughput(batches, prepare, args, workers)
        if args.network or args.step_seconds:
            figures |= waiting(batches, prepare, args, workers)
        del batches, loader
    return figures


def parts(args: argparse.Namespace) -> None:
    """Processor milliseconds per patch of every part of the work, one thread."""
    torch.set_num_threads(1)
    size = size_of(args)
    plain = PatchDataset(stored(args), size, ENDLESS)
    rows = {"read and normalise": processor_ms(lambda i: plain[i])}
    items = [plain[i] for i in range(args.batch)]
    rows["collate"] = processor_ms(lambda _: plain.collate(items)) / args.batch
    never = dict.fromkeys(PROBABILITY, 0.0)
    for name, chance in [*[(k, never | {k: 1.0}) for k in PROBABILITY], ("all, at their probabilities", {})]:
        rows[name] = augmentation_ms(PatchAugmentation(size, probability=chance), 40 if not chance else 12)
    for place_ in ("workers", "device"):
        dataset = our_dataset(args, place_)
        rows[f"a worker's whole work, augment_on {place_}"] = processor_ms(
            lambda i, dataset=dataset: dataset.collate([dataset[i]]), 40
        )
    print("| part | ms per patch |")
    print("| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value:.2f} |")


def augmentation_ms(augment: PatchAugmentation, count: int) -> float:
    """Time per patch for patches in memory, each with the margin that it needs."""
    items = []
    for number in range(count + 1):
        augment.set_random_state(number)
        image = torch.rand(1, *augment.source_size()) * 2 - 1
        items.append({"image": image, "label": (image > 0).to(torch.uint8)})

    def once(number: int) -> None:
        augment.set_random_state(number)
        augment.source_size()
        augment(items[number])

    return processor_ms(once, count)


def processor_ms(run: Callable[[int], object], count: int = 12) -> float:
    run(0)
    started = time.process_time()
    for number in range(count):
        run(number + 1)
    return 1e3 * (time.process_time() - started) / count


def report(results: Mapping[str, Mapping[str, float]], args: argparse.Namespace) -> None:
    stepped = bool(args.network or args.step_seconds)
    print(
        "| | workers | patches / s | main process, ms / patch |"
        + (" steps that wait | of the time | s / step |" * stepped)
    )
    print("| --- | ---: | ---: | ---: |" + " ---: | ---: | ---: |" * stepped)
    for name, row in results.items():
        for n in args.workers:
            line = f"| {name} | {n} | {row[f'patches {n}']:.1f} | {row[f'main ms {n}']:.1f} |"
            if stepped:
                line += f" {row[f'late {n}']:.1%} | {row[f'share {n}']:.1%} | {row[f'step {n}']:.3f} |"
            print(line)
    most = max(args.workers)
    for mine in ("ours workers", "ours device"):
        for peer in (name for name in results if not name.startswith("ours")):
            for n in args.workers:
                a, b = (results[name][f"patches {n}"] for name in (mine, peer))
                label = f"patches_per_second:{n}_workers:{mine}:{peer}".replace(" ", "-")
                print(f"RESULT {label} ours={a:.1f} peer={b:.1f} ratio={a / b:.2f}")
            if stepped:
                a, b = (results[name][f"late {most}"] for name in (mine, peer))
                label = f"steps_that_wait:{most}_workers:{mine}:{peer}".replace(" ", "-")
                print(f"RESULT {label} ours={a:.4f} peer={b:.4f} ratio={a / b if b else float('nan'):.3f}")
        if stepped:
            # the aim stands in for a peer
            a = results[mine][f"late {most}"]
            label = f"steps_that_wait:{most}_workers:{mine}:aim".replace(" ", "-")
            print(f"RESULT {label} ours={a:.4f} peer={WAITS} ratio={a / WAITS:.3f}")


def main() -> None:
    cores = available_cores()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, choices=(2, 3), default=3)
    parser.add_argument("--size", type=int, default=96, help="side of the patch in voxels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[n for n in (0, 1, 2, 4, 8) if n <= cores])
    parser.add_argument("--seconds", type=float, default=8.0, help="time measured per number of workers")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="a step is a sleep of this duration")
    parser.add_argument(
        "--network", choices=("r2unet", "upernet"), help="a step is a training step of this network"
    )
    parser.add_argument(
        "--steps", type=int, default=100, help="number of steps among which those that wait are counted"
    )
    parser.add_argument("--rounds", type=int, default=1, help="processes per contestant, interleaved")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    parser.add_argument("--peers", nargs="*", choices=("monai", "nnunet"), default=["monai"])
    parser.add_argument(
        "--synthetic", action="store_true", help="use synthetic volumes although the demo exists"
    )
    parser.add_argument("--parts", action="store_true", help="measure the milliseconds of each part instead")
    parser.add_argument(
        "--folder", type=Path, help="where to work; default: a temporary folder, removed after"
    )
    parser.add_argument("--only", choices=CONTESTANTS, help="measure one contestant and print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loading-") as temporary:
        args.folder = args.folder or Path(temporary)
        if args.only:
            print(json.dumps(measure(args.only, args)))
            return
        stored(args)
        if args.parts:
            parts(args)
            return
        keys = ("dims", "size", "batch", "device", "seconds", "step_seconds", "steps", "threads", "folder")
        passed = [f"--{key.replace('_', '-')}={getattr(args, key)}" for key in keys]
        passed += ["--workers", *map(str, args.workers), *(["--synthetic"] if args.synthetic else [])]
        passed += ["--network", args.network] if args.network else []
        names = ["ours workers", "ours device", *args.peers]
        if "nnunet" in names and importlib.util.find_spec("nnunetv2") is None:
            print("nnunetv2 is not installed here, so nnU-Net is left out")
            names.remove("nnunet")
        report(run_apart("benchmarks.loading", names, args.rounds, passed), args)


if __name__ == "__main__":
    main()
