"""Seconds of a window and of a whole image for each engine: ``python -m benchmarks.engines MODEL IMAGE``.

MODEL is a `model.pt` with its `model.json`, or several. All engines run in turn in one process, on the same windows; torch
("eager") is one of them, in fp32 and bf16. Printed are the median seconds by the clock, the median seconds of processor
time (with one thread, what the clock says on a processor that has nothing else to do), and how many times as fast as eager
in bf16 (or fp32) that is, by processor time and by the clock: the median of the ratios of each round. Then labels: the
fraction of voxels that are as eager's in fp32, over the whole image.

``--beside N`` starts N processes that keep the same cores busy. To emulate a processor without AVX-512 for torch (OpenVINO
and ONNX Runtime do not follow these variables), set ``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2``. Exports are
made in `data/benchmarks/engines`, ``--int8 DATASET`` makes those in 8 bits too.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.inference_case import FOLDER
from pipelines.data.inputs import find_inputs
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.engines.command import export_model
from pipelines.inference.engines.engine import Engine, Work
from pipelines.inference.engines.export import FORMATS
from pipelines.inference.engines.quantisation import INT8, MARK
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.precision import autocast
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import CARD, TrainedModel

WAYS = (
    ("eager", "fp32"),
    ("eager", "bf16"),
    ("compile", "bf16"),
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
)
BUSY = "while True: sum(range(10000))"


class Times(NamedTuple):
    clock: float
    processor: float


class Way:
    """An engine in a precision, ready to compute windows of a model."""

    def __init__(self, model: Path, name: str, precision: str, title: str, item: dict) -> None:
        self.title, self.precision = title, precision
        trained = TrainedModel(model)
        self.engine = Engine(name, trained)
        self.evaluator = SegEvaluator(
            "cpu",
            [item],
            place(trained.network, "cpu", "auto", precision),
            trained.preprocess,
            trained.class_names,
            SlidingWindow(trained.patch_size, overlap=trained.overlap, mirror_axes=trained.mirror_axes),
            precision,
            confidence=False,
            engine=self.engine,
        )
        window = self.evaluator.inferer.some_windows(item["image"], 1, item.get("padding"))[0]
        started = time.perf_counter()
        work = Work(window, 1, torch.device("cpu"), precision, precision)
        self.network = self.engine.network_for(self.evaluator.network, work)
        self.window = window
        self.compute()
        self.ready = time.perf_counter() - started

    def compute(self) -> Times:
        clock, processor = time.perf_counter(), time.process_time()
        with torch.inference_mode(), autocast("cpu", self.precision):
            self.network(self.window)
        return Times(time.perf_counter() - clock, time.process_time() - processor)

    def whole(self, item: dict) -> tuple[Times, torch.Tensor]:
        clock, processor = time.perf_counter(), time.process_time()
        labels = self.evaluator.predict(item).as_tensor()
        return Times(time.perf_counter() - clock, time.process_time() - processor), labels


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Processes that compute on the cores of this one."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def ways_of(model: Path, engines: list[str], item: dict, int8: Path | None) -> list[Way]:
    wanted = [(name, precision, name, f"{name} {precision}") for name, precision in WAYS if name in engines]
    made = []
    if int8 is not None:
        names = [name for name in INT8 if name in engines]
        export_model(model, names, data=int8, int8=True)
        for name in names:
            path = str(model.with_name(f"{model.stem}{MARK}{FORMATS[name].suffix}"))
            # What is not in 8 bits then is in the other's fastest format.
            wanted.append((path, "bf16" if name == "openvino" else "fp32", name, f"{name} int8"))
    for name, precision, _, title in wanted:
        made.append(Way(model, name, precision, title, item))
        print(f"{title}: ready after {made[-1].ready:.1f} s", file=sys.stderr)
    return made


def ratio(base: list[Times], other: list[Times]) -> str:
    by = [
        statistics.median(a[column] / b[column] for a, b in zip(base, other, strict=True))
        for column in (1, 0)
    ]
    return f"{by[0]:8.2f} {by[1]:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("image", type=Path, help="image file that the models segment")
    parser.add_argument("--engines", nargs="+", default=["eager", "onnx", "openvino"])
    parser.add_argument("--rounds", type=int, default=7, help="of windows")
    parser.add_argument("--wholes", type=int, default=1, help="rounds of the whole image; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's own choice")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="busy processes on the same cores")
    parser.add_argument(
        "--int8", type=Path, metavar="DATASET", help="also exports in 8 bits, calibrated on it"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
        f"{arguments.beside} busy processes beside"
    )
    for number, given in enumerate(arguments.models):
        folder = FOLDER / "engines" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.pt"
        shutil.copy(given, model)
        shutil.copy(given.with_suffix(".json"), folder / CARD)
        trained = TrainedModel(model)
        cases = find_inputs(arguments.image, labels=trained.labels, channels=trained.preprocess.channels)
        item = dict(VolumeDataset(cases[:1], trained.preprocess)[0])
        ways = ways_of(model, arguments.engines, item, arguments.int8)
        with beside(arguments.beside):
            rounds = [[way.compute() for way in ways] for _ in range(arguments.rounds)]
            wholes = [[way.whole(item) for way in ways] for _ in range(arguments.wholes)]
        best = "eager bf16"
        base = next(index for index, way in enumerate(ways) if way.title == best)
        passes = ways[0].evaluator.inferer.passes(item["image"])
        size = "x".join(map(str, trained.patch_size))
        print(f"\n{given}: {trained.card['network']['_target_']}, windows of {size}, {passes} of them")
        print(f"{'':16}{'clock':>9}{'processor':>10}{'times':>9}{'by clock':>9}  labels")
        for index, way in enumerate(ways):
            times = [each[index] for each in rounds]
            clock, processor = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"{way.title:16}{clock:8.3f}s{processor:9.3f}s {ratio([each[base] for each in rounds], times)}  a window"
            )
        for index, way in enumerate(ways if wholes else ()):
            times = [each[index][0] for each in wholes]
            clock, processor = (statistics.median(column) for column in zip(*times, strict=True))
            first, own = wholes[0][0][1], wholes[0][index][1]
            same = float((first == own).double().mean())
            both = 2 * float(((first > 0) & (own > 0) & (first == own)).sum())
            dice = both / max(1.0, float((first > 0).sum() + (own > 0).sum()))
            told = ratio([each[base][0] for each in wholes], times)
            print(f"{way.title:16}{clock:8.2f}s{processor:9.2f}s {told}  whole; {100 * same:.4f}% {dice:.5f}")


if __name__ == "__main__":
    main()
