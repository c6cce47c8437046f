"""Random patches from many CT volumes: patches per second and memory of the patch store, compared with MONAI.

    python benchmarks/patches.py                    # 10 and 200 cases of 512 x 512 x 120, 10 to 20 minutes
    python benchmarks/patches.py --quick            # 4 and 20 cases of 192 x 192 x 64, about 2 minutes
    python benchmarks/patches.py --layouts          # time and size for several chunk and block shapes

Peers, all with MONAI's own transforms LoadImaged, EnsureChannelFirstd, ScaleIntensityRanged and
RandCropByPosNegLabeld (one sample a volume), nothing resampled, nothing augmented:

- plain: everything for every patch,
- PersistentDataset: the deterministic part cached on disk (warm),
- CacheDataset: the deterministic part held in memory.

Each runs in a separate process with one thread, on the same files. Throughput is measured in a single process
without workers, after one pass over the cases has filled the file system's cache. Memory is the peak of the anonymous
and shared memory of the main process and two workers that load batches of two; pages that they share are counted once
(Pss_Anon and Pss_Shmem of /proc/PID/smaps_rollup, so Linux only). Mapped files are not counted: libraries, whose share
depends on other processes of the machine, and the file system's cache. The peers are measured only with the smaller
number of cases, because with 200 cases CacheDataset would need 50 GB of memory and PersistentDataset as much disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DISTINCT = 4


def generate(folder: Path, shape: tuple[int, ...], cases: int) -> None:
    """`DISTINCT` CT-like volumes with labels, copied to as many files as there are cases."""
    import nibabel
    from scipy import ndimage

    folder.mkdir(parents=True)
    grid = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    for k in range(DISTINCT):
        random = np.random.default_rng(k)
        tissue = ndimage.zoom(
            random.normal(40, 60, (12, 12, 8)).astype(np.float32), np.array(shape) / (12, 12, 8), order=1
        )
        body = (grid[0] / 0.9) ** 2 + (grid[1] / 0.7) ** 2 < 1
        label = np.zeros(shape, np.uint8)
        for value, (x, radius) in enumerate(((-0.4, 0.3), (0.4, 0.28), (0.1, 0.08)), 1):
            label[(grid[0] - x) ** 2 + grid[1] ** 2 + (0.6 * grid[2]) ** 2 < radius**2] = value
        image = np.where(body, tissue - 800 * ((label == 1) | (label == 2)), -1000)
        image = (image + random.normal(0, 20, shape).astype(np.float32)).clip(-1024, 3071).astype(np.int16)
        for name, array in (("image", image), ("label", label)):
            file = nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 2.5, 1]))
            nibabel.save(file, folder / f"{name}{k}.nii.gz")
    for i in range(DISTINCT, cases):
        for name in ("image", "label"):
            # Separate paths, so that no loader or cache treats two cases as one.
            os.link(folder / f"{name}{i % DISTINCT}.nii.gz", folder / f"{name}{i}.nii.gz")


def data_list(folder: Path, cases: int) -> list[dict[str, str]]:
    return [
        {
            "image": str(folder / f"image{i}.nii.gz"),
            "label": str(folder / f"label{i}.nii.gz"),
            "case": f"case{i}",
        }
        for i in range(cases)
    ]


def make_dataset(kind: str, folder: Path, cases: int, patch: tuple[int, ...]):
    data = data_list(folder / "data", cases)
    if kind == "ours":
        from pipelines.data.patch_dataset import PatchDataset
        from transforms.preprocess import Preprocess

        return PatchDataset(data, patch, 10**6, Preprocess(window=(-1000, 1000)), folder / "store", 0.5)
    from monai.data import CacheDataset, Dataset, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        RandCropByPosNegLabeld,
        ScaleIntensityRanged,
    )

    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityRanged("image", -1000, 1000, -1, 1, clip=True),
            RandCropByPosNegLabeld(keys, "label", patch, pos=1, neg=1, num_samples=1),
        ]
    ).set_random_state(0)
    if kind == "plain":
        return Dataset(data, transform)
    if kind == "persistent":
        return PersistentDataset(data, transform, cache_dir=folder / "persistent")
    return CacheDataset(data, transform, num_workers=0, progress=False)


class PeakMemory(threading.Thread):
    """Samples the memory of this process and its children, without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        import psutil

        while not self.done.wait(0.05):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                try:
                    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
                except (FileNotFoundError, ProcessLookupError):
                    continue  # a worker that just ended
                total += sum(
                    1024 * int(x.split()[1]) for x in lines if x.startswith(("Pss_Anon:", "Pss_Shmem:"))
                )
            self.peak = max(self.peak, total)


def measure(kind: str, folder: Path, cases: int, patch: tuple[int, ...], seconds: float) -> None:
    """Print one line of JSON: set-up seconds, milliseconds per patch, peak bytes."""
    import torch
    from monai.data import list_data_collate
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    start = time.perf_counter()
    dataset = make_dataset(kind.replace("build", "ours"), folder, cases, patch)
    if kind == "build":
        # Built in a separate process, so that the measurement is that of a training whose store exists.
        print(json.dumps({"setup": time.perf_counter() - start}))
        return
    count = cases if kind != "ours" else 4 * cases
    order = np.random.default_rng(0).integers(count, size=10**5).tolist()
    if kind != "plain":
        for i in range(cases):  # fills the caches of PersistentDataset and of the file system
            dataset[i]
    setup = time.perf_counter() - start
    times = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        item = dataset[order[len(times)]]
        times.append(time.perf_counter() - start)
        image = item["image"] if kind == "ours" else item[0]["image"]
        assert image.shape[1:] == patch

    memory = PeakMemory()
    loader = DataLoader(
        dataset, 2, sampler=order[: 4 * max(4, len(times) // 4)], num_workers=2, collate_fn=list_data_collate
    )
    memory.start()
    for _ in loader:
        pass
    memory.done.set()
    memory.join()
    print(
        json.dumps(
            {"setup": setup, "ms": 1e3 * sum(times) / len(times), "patches": len(times), "peak": memory.peak}
        )
    )


def layouts(folder: Path, shape: tuple[int, ...]) -> None:
    """Milliseconds per 96^3 patch and per axial slice, and size, for chunk and block shapes and codecs."""
    import blosc2
    import nibabel

    generate(folder / "data", shape, 1)
    volume = np.asarray(nibabel.load(folder / "data" / "image0.nii.gz").dataobj)
    path = str(folder / "volume.b2nd")
    zstd, lz4 = blosc2.Codec.ZSTD, blosc2.Codec.LZ4
    shuffle, bits = blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE
    print("chunks         blocks        codec         ratio  write s  patch ms  slice ms")
    for chunks, blocks, codec, level, filter_ in (
        ((64, 64, 64), (32, 32, 32), zstd, 5, shuffle),
        ((64, 64, 64), (32, 32, 8), zstd, 5, shuffle),
        ((64, 64, 64), (16, 16, 16), zstd, 5, shuffle),
        ((128, 128, 64), (32, 32, 8), zstd, 5, shuffle),
        ((128, 128, 32), (32, 32, 4), zstd, 5, shuffle),
        ((64, 64, 64), (32, 32, 8), zstd, 1, shuffle),
        ((64, 64, 64), (32, 32, 8), zstd, 5, bits),
        ((64, 64, 64), (32, 32, 8), lz4, 5, bits),
    ):
        start = time.perf_counter()
        cparams = {"codec": codec, "clevel": level, "filters": [filter_], "nthreads": 1}
        frame = blosc2.asarray(volume, chunks=chunks, blocks=blocks, cparams=cparams).to_cframe()
        wrote = time.perf_counter() - start
        Path(path).write_bytes(frame)
        random = np.random.default_rng(0)
        took = {"patch": [], "slice": []}
        for _ in range(60):
            for what, size in (("patch", (96, 96, 96)), ("slice", (shape[0], shape[1], 1))):
                first = [int(random.integers(n - min(n, p) + 1)) for n, p in zip(shape, size, strict=True)]
                start = time.perf_counter()
                array = blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
                array[tuple(slice(a, a + p) for a, p in zip(first, size, strict=True))]
                took[what].append(time.perf_counter() - start)
        patch, slice_ = (1e3 * np.median(took[k]) for k in ("patch", "slice"))
        name = f"{codec.name.lower()}-{level} {filter_.name.lower()}"
        print(
            f"{chunks!s:14} {blocks!s:13} {name:18} {volume.nbytes / len(frame):5.2f} {wrote:7.2f} {patch:9.2f} {slice_:9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs=2, default=(10, 200), help="fewer and more cases")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 120))
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--seconds", type=float, default=10.0, help="time measured per candidate")
    parser.add_argument("--quick", action="store_true", help="small volumes, few cases")
    parser.add_argument("--layouts", action="store_true", help="measure chunk and block shapes instead")
    parser.add_argument(
        "--folder", type=Path, help="where to work; default: a temporary folder, removed after"
    )
    peers = ("plain", "persistent", "cache")
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, help="implementations to compare with"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    patch = tuple(options.patch)
    if options.measure:
        measure(options.measure, options.folder, options.cases[0], patch, options.seconds)
        return
    if options.quick:
        options.cases, options.shape, options.seconds, patch = (4, 20), (192, 192, 64), 3.0, (64, 64, 64)
    few, many = options.cases
    folder = options.folder or Path(tempfile.mkdtemp(prefix="patches-"))
    try:
        if options.layouts:
            layouts(folder, tuple(options.shape))
            return
        generate(folder / "data", tuple(options.shape), max(many, DISTINCT))
        results = {}
        jobs = [(kind, few) for kind in options.peers] + [
            (k, n) for n in (few, many) for k in ("build", "ours")
        ]
        for kind, cases in jobs:
            command = [sys.executable, __file__, "--measure", kind, "--folder", str(folder)]
            command += ["--cases", str(cases), str(cases), "--patch", *map(str, patch)]
            command += ["--seconds", str(options.seconds)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
            result = results[kind, cases] = json.loads(output.stdout.strip().splitlines()[-1])
            line = f"{kind:10} {cases:4} cases: set-up {result['setup']:7.1f} s"
            if kind != "build":
                line += f", {result['ms']:8.2f} ms per patch ({result['patches']} patches)"
                line += f", peak memory {result['peak'] / 1e6:7.0f} MB"
            print(line, flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    mine, larger = results["ours", few], results["ours", many]
    for kind in options.peers:
        peer = results[kind, few]
        print(
            f"RESULT patches_per_second_vs_{kind} ours={1e3 / mine['ms']:.1f} peer={1e3 / peer['ms']:.2f} "
            f"ratio={peer['ms'] / mine['ms']:.1f}"
        )
        print(
            f"RESULT memory_mb_{few}_cases_vs_{kind} ours={mine['peak'] / 1e6:.0f} peer={peer['peak'] / 1e6:.0f} "
            f"ratio={mine['peak'] / peer['peak']:.3f}"
        )
    print(
        f"RESULT memory_mb_{many}_cases_vs_{few} ours={larger['peak'] / 1e6:.0f} peer={mine['peak'] / 1e6:.0f} "
        f"ratio={larger['peak'] / mine['peak']:.3f}"
    )


if __name__ == "__main__":
    main()
