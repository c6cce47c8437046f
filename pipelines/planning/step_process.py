"""The process in which steps are measured: `python -m pipelines.planning.step_process`, begun by `StepTimer`.

It reads one JSON object a line on stdin, first the job, then one candidate after another, and answers each with a line
on stdout. What it measures are steps of the config's own trainer, on random patches; no dataset, no folder and no
tracking is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from pipelines.config.components import find_component
from pipelines.config.errors import user_error
from pipelines.config.knobs import AUTO
from pipelines.data.cases import Dataset
from pipelines.inference.precision import AUTO as ANY_PRECISION
from pipelines.inference.precision import autocast, resolve_precision
from pipelines.planning.knobs import PLANNED
from pipelines.planning.plan_file import PlanError
from pipelines.planning.records import StepCost
from pipelines.utils.cores import use_cores
from pipelines.utils.installed import claim_short_names
from pipelines.utils.resident_memory import PeakMemory
from transforms.augmentation.on_device import augments_on_device, collate_deferred
from transforms.utils.memory import is_out_of_memory

__all__ = ["measured", "patches", "prepared"]

STEPS, ENOUGH, MOST = 3, 2.0, 20
"""Steps that are timed after a first one that warms up: so many, more while they took fewer seconds together, at most."""
WINDOWS = 3
"""Forward passes that are timed after a first one."""
BATCHES = 4
"""Batches that are augmented on the device differ in how; so many take turns."""
SEEDING = "seeding_of_steps"
NEUTRAL: dict[str, Any] = {
    "normalization": None,
    "window": None,
    "crop_above": None,
    "foreground": 0.0,
    "dice_smooth": 1e-5,
    "flip_axes": [],
    "overlap": 0.5,
    "mirror_axes": [],
    "augmentation": "strong",
    "epochs": 1,
    "patches_per_epoch": 1_000_000,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "schedule": "constant",
    "ema": 0.99,
    "val_interval": 1,
}
"""Of the ids that a plan gives a value to, those on which the cost of a step does not depend."""


def prepared(
    config: Mapping[str, Any], knobs: Mapping[str, Any], channels: int, classes: int
) -> ConfigParser:
    """A training's config with some values put in, and without its dataset.

    `@data` becomes a dataset without cases that has so many channels and classes; `network_def#in_channels` follows.

    Args:
        config: of a bundle's training, as written.
        knobs: values by id; "#" parts the levels of an id.
        channels: of an image.
        classes: with the background.

    Raises:
        PlanError: an id on which the cost depends is "auto" still, or the config trains nothing.
    """
    raw = deepcopy(dict(config))
    if "trainer" not in (raw.get("train") or {}):
        raise PlanError("the config has no train#trainer whose steps could be measured")
    parser = ConfigParser(raw)
    for name, value in knobs.items():
        parser[name] = value
    for name in PLANNED:
        if raw.get(name) == AUTO and name not in knobs:
            if name not in NEUTRAL:
                raise PlanError(f"a step cannot be measured while {name} is '{AUTO}'")
            parser[name] = NEUTRAL[name]
    names = {number: f"class {number}" for number in range(classes)}
    parser["data"] = Dataset(Path(), "random patches", names, training=(), channels=channels)
    if "in_channels" in (raw.get("network_def") or {}):
        parser["network_def#in_channels"] = channels
    if "seed" in raw and "deterministic" in raw:
        # As the config's "initialize" does: it decides which kernels a GPU takes.
        parser[SEEDING] = "$pipelines.seed_everything(@seed, @deterministic)"
    trainer = parser["train#trainer"]
    trainer |= {"max_epochs": 1, "train_data_loader": [], "train_handlers": []}
    return parser


def patches(parser: ConfigParser, channels: int, classes: int) -> list[dict[str, Any]]:
    """Batches of random patches as the config's loader would give them, to be taken in turn.

    Where it would leave the augmentation to the device, these leave it too.

    Args:
        parser: of `prepared`.
        channels, classes: as there.
    """
    size = [int(n) for n in parser.get_parsed_content("patch_size")]
    count = int(parser.get_parsed_content("batch_size"))
    kind = torch.uint8 if classes <= 256 else torch.int32
    dataset = parser.get("train").get("dataset") or {}
    place, transform, device = (
        parser.get_parsed_content(f"train::dataset::{name}") if name in dataset else None
        for name in ("augment_on", "transform", "device")
    )
    augmentation: Any = transform
    names = [f"random {number}" for number in range(count)]
    if not augments_on_device(place or "workers", device, transform):
        image = torch.randn(count, channels, *size)
        return [
            {"image": image, "label": torch.randint(classes, (count, 1, *size), dtype=kind), "case": names}
        ]

    def item(name: str) -> Any:
        source = augmentation.source_size()
        return {
            "image": torch.randint(-1000, 1000, (channels, *source), dtype=torch.int16),
            "label": torch.randint(classes, (1, *source), dtype=kind),
            "case": name,
            "intensity": {},
            "variation": augmentation.draw(),
        }

    return [
        dict(collate_deferred([item(name) for name in names], lambda codes, _: codes / 1000))
        for _ in range(BATCHES)
    ]


def measured(
    parser: ConfigParser, channels: int, classes: int, seconds: float, before: int | None = None
) -> StepCost:
    """Train some steps, look at some windows, and say what that took.

    Args:
        parser: of `prepared`.
        channels, classes: as there.
        seconds: from now, after which no further step begins; one is timed in any case.
        before: bytes that this process held before the first network was made; by default now.

    Raises:
        RuntimeError: the memory is too small; or what MONAI makes of an error in the config.
    """
    deadline = time.perf_counter() + seconds
    device = torch.device(parser.get_parsed_content("device"))
    if SEEDING in parser:
        parser.get_parsed_content(SEEDING)
    before = psutil.Process().memory_info().rss if before is None else before
    with PeakMemory() as peak:
        batches = patches(parser, channels, classes)
        trainer = _with_loader(parser, _Batches(batches)).get_parsed_content("train::trainer")
        clock = _Clock(trainer, device, deadline)
        trainer.run()
        window = _window_seconds(parser, trainer, channels, device, deadline)
    used = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak.bytes - before
    return StepCost(statistics.median(clock.times), max(used, 1), window)


def _with_loader(parser: ConfigParser, batches: _Batches) -> ConfigParser:
    parser["train#trainer"]["train_data_loader"] = batches
    # It has been read already for what the batches are.
    parser.ref_resolver.reset()
    return parser


class _Batches:
    """A loader whose epoch has no end worth mentioning."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.cycle(self._batches)


class _Clock:
    """Times the optimiser steps of a trainer, and ends it when they are enough.

    A trainer that looks for the best number of threads is timed with the number that it ends up with.
    """

    def __init__(self, trainer: Engine, device: torch.device, deadline: float) -> None:
        self._times: list[tuple[int, float]] = []
        self._device, self._deadline = device, deadline
        self._accumulation = int(getattr(trainer, "accumulation_steps", 1))
        self._last: float | None = None
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._done)

    @property
    def times(self) -> list[float]:
        """Seconds of the steps with the number of threads that is in use now; without any, of all."""
        threads = torch.get_num_threads()
        return [took for count, took in self._times if count == threads] or [took for _, took in self._times]

    def _done(self, trainer: Engine) -> None:
        if trainer.state.iteration % self._accumulation:
            return
        _wait(self._device)
        now = time.perf_counter()
        if self._last is None:
            if self._device.type == "cuda":
                # Of the kernels that cuDNN tried once.
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self._device)
            self._last = time.perf_counter()
            return
        self._times.append((torch.get_num_threads(), now - self._last))
        self._last = now
        times = self.times
        settled = getattr(getattr(trainer, "threads", None), "settled", True)
        late = now + 2 * self._times[-1][1] > self._deadline
        if late or len(times) >= MOST or (settled and len(times) >= STEPS and sum(times) >= ENOUGH):
            trainer.terminate()


def _window_seconds(
    parser: ConfigParser, trainer: Any, channels: int, device: torch.device, deadline: float
) -> float:
    """Of the forward pass of one window, with the network and the precision of the validation."""
    found = {
        name: parser.get_parsed_content(f"validate::evaluator::{name}")
        for name in ("network", "precision")
        if f"validate::evaluator::{name}" in parser
    }
    network = found.get("network", trainer.network).eval()
    precision = resolve_precision(found.get("precision", ANY_PRECISION), device)
    window = torch.randn(1, channels, *parser.get_parsed_content("patch_size"), device=device)
    times: list[float] = []
    with torch.inference_mode(), autocast(device, precision):
        while len(times) <= WINDOWS and (len(times) < 2 or time.perf_counter() < deadline):
            started = time.perf_counter()
            network(window)
            _wait(device)
            times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def why(error: BaseException) -> str:
    """What went wrong, in one line."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(is_out_of_memory(one) or isinstance(one, MemoryError) for one in chain):
        return "there is too little memory for it"
    known = user_error(error)
    if known is not None:
        return " ".join(str(known).split())
    # What MONAI says about it names the place in the config, but not what was wrong.
    first = chain[-1]
    return f"{type(first).__name__}: {' '.join(str(first).split())}"


def _forget() -> None:
    """Give back what the last candidate took, so that the next one is not measured with it."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        # Of one function it compiles no more than a few variants.
        torch.compiler.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps freed memory; other libraries of C have no such function.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _become_expendable() -> None:
    """Where memory gets short nevertheless, Linux shall end this process before any other."""
    with contextlib.suppress(OSError):  # another system
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def main() -> int:
    """Answer candidates until stdin ends; see `StepTimer` for what is in the lines."""
    try:
        with contextlib.ExitStack() as stack:
            _serve(stack)
    except Exception as error:
        # The last line of stderr is what `StepTimer` tells of it.
        print(why(error), file=sys.stderr)
        return 1
    return 0


def _serve(stack: contextlib.ExitStack) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # Whatever libraries print must not stand among the answers.
    os.dup2(2, 1)
    _become_expendable()
    job = json.loads(sys.stdin.readline())
    use_cores()
    claim_short_names()
    torch.set_num_threads(job["threads"])
    config = job["config"]
    if job["distributed"]:
        # A network that is wrapped for several processes wants a group; of this process alone it needs no port.
        place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        store = torch.distributed.FileStore(str(Path(place, "store")), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    for part in (config.get("network_def"), (config.get("train") or {}).get("trainer")):
        # Imported now, so that they are no part of what a network needs.
        if isinstance(part, Mapping) and isinstance(part.get("_target_"), str):
            find_component(part["_target_"])
    device = torch.device(ConfigParser(config).get_parsed_content("device", default="cpu"))
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, job["memory"] / total), device)
    before = psutil.Process().memory_info().rss
    answers.write(json.dumps({"resident": before, "on_host": device.type != "cuda"}) + "\n")
    for line in iter(sys.stdin.readline, ""):
        answer = _answer(job, json.loads(line), before)
        _forget()
        answers.write(json.dumps(answer) + "\n")


def _answer(job: Mapping[str, Any], asked: Mapping[str, Any], before: int) -> dict[str, Any]:
    """The cost of a candidate, or why it has none."""
    channels, classes = job["channels"], job["classes"]
    try:
        parser = prepared(job["config"], asked["knobs"], channels, classes)
        return {"cost": measured(parser, channels, classes, asked["seconds"], before)._asdict()}
    except Exception as error:
        return {"reason": why(error)}


if __name__ == "__main__":
    sys.exit(main())
