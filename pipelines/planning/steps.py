"""What one optimiser step of a training costs on this machine, measured in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import psutil
import torch

from pipelines.distributed.process_group import is_distributed
from pipelines.planning.plan_file import PlanError
from pipelines.planning.records import StepCost
from pipelines.utils.installed import name_here
from pipelines.utils.progress import Steps

__all__ = ["StepTimer"]

INTERVAL = 0.01
"""Seconds between two looks at the memory of the process."""
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How the variables begin that torchrun sets: the process that measures is none of its."""


class StepTimer:
    """Measures steps of a bundle's training: its network, loss, optimiser, precision, memory format and clipping.

    The steps are those of the config's own `train#trainer` on random patches; the dataset, the folder of checkpoints
    and MLflow are not touched. It happens in another process, so that its memory is measured apart and an attempt
    that takes too much of it harms nobody: on a CPU that process is ended as soon as it passes the limit, and another
    one goes on with the next candidate.

    The number of threads is this process's. In a training a loader's workers and, under torchrun, other ranks want the
    same cores; that is not measured.

    Args:
        config: of the training, as written: JSON values with their references and expressions.
        channels: of an image.
        classes: with the background.

    Attributes:
        reasons: of the last call of `measure`, why a candidate has no cost; None for those that have one.
    """

    def __init__(self, config: Mapping[str, Any], channels: int, classes: int) -> None:
        self._config, self._channels, self._classes = dict(config), channels, classes
        self.reasons: list[str | None] = []

    def measure(
        self, candidates: Sequence[Mapping[str, Any]], seconds: float, memory: int
    ) -> list[StepCost | None]:
        """The cost of a step with each of several settings.

        Args:
            candidates: values by id of the config, such as {"patch_size": [64, 64, 64], "network_def#features": [8, 16]}.
            seconds: for all of them together. The first is measured in any case; those for which no time is left are
                not.
            memory: bytes that the process may take beyond what it has before a network is made; on CUDA of the GPU.

        Returns:
            A cost for each, or None: it needs more memory, does not build, or there was no time. `reasons` says which.

        Raises:
            PlanError: the process that measures ended by an error that is none of a candidate's.
        """
        deadline = time.monotonic() + seconds
        self.reasons = []
        costs: list[StepCost | None] = []
        child: _Child | None = None
        try:
            with Steps(len(candidates), "setting", "measuring", leave=False, delay=2.0) as progress:
                for number, knobs in enumerate(candidates):
                    left = deadline - time.monotonic()
                    cost, reason = None, "there was no time to measure it"
                    if number == 0 or left > 0:
                        child = child or _Child(self._job(memory))
                        cost, reason = child.ask(knobs, left, memory, patient=number == 0)
                        child = child if child.alive else None
                    costs.append(cost)
                    self.reasons.append(None if cost is not None else reason)
                    progress.step()
        finally:
            if child is not None:
                child.end()
        return costs

    def _job(self, memory: int) -> dict[str, Any]:
        return {
            "config": self._config,
            "channels": self._channels,
            "classes": self._classes,
            "memory": memory,
            "distributed": is_distributed(),
            # Not by OMP_NUM_THREADS: a trainer would take that for a person's wish and look for no better number.
            "threads": torch.get_num_threads(),
        }


class _Child:
    """A process that measures, see `pipelines.planning.step_process`."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(TORCHRUN)}
        # What this process can import, that one can too.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", name_here("pipelines.planning.step_process")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            encoding="utf-8",
        )
        self.alive = True
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="steps", daemon=True)
        self._reader.start()
        self._resident: int | None = None
        self._say(job)

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        # Where it has ended, the reader learns of it too, and what it said last tells why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def ask(
        self, knobs: Mapping[str, Any], seconds: float, memory: int, patient: bool
    ) -> tuple[StepCost | None, str]:
        """The cost of a candidate, or None and why.

        Args:
            knobs: of the candidate.
            seconds: that are left.
            memory: bytes that it may take.
            patient: wait for it even if no time is left.
        """
        started = time.monotonic()
        deadline = None if patient else started + seconds
        if self._resident is None:
            hello = self._answer(None)
            self._resident, self._on_host = hello["resident"], hello["on_host"]
            seconds -= time.monotonic() - started
        self._say({"knobs": dict(knobs), "seconds": seconds})
        limit = self._resident + memory if self._on_host else None
        answer = self._answer(limit, deadline)
        if "cost" not in answer:
            return None, answer["reason"]
        cost = StepCost(**answer["cost"])
        if cost.memory > memory:
            return None, _too_much(memory)
        return cost, ""

    def _answer(self, limit: int | None, deadline: float | None = None) -> dict[str, Any]:
        """The next answer; or the reason why there is none, after which the process has ended.

        Raises:
            PlanError: it ended by itself.
        """
        process = psutil.Process(self._process.pid)
        while True:
            try:
                answer = self._answers.get(timeout=INTERVAL)
            except queue.Empty:
                if limit is not None and _resident(process) > limit:
                    self.end()
                    assert self._resident is not None
                    return {"reason": _too_much(limit - self._resident)}
                if deadline is not None and time.monotonic() > deadline:
                    self.end()
                    return {"reason": "there was no time to measure it"}
                continue
            if answer is not None:
                return answer
            return self._ended()

    def _ended(self) -> dict[str, Any]:
        status = self._process.wait()
        said = self._last_words()
        self.end()
        if self._resident is not None and status == -9:
            return {"reason": "the system ended it, as it does where memory is short"}
        raise PlanError(f"steps cannot be measured: {said or f'the process ended with status {status}'}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def end(self) -> None:
        """End the process, whatever it does."""
        if not self.alive:
            return
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            # What was still to be said to it stays unsaid.
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        # It ended just now.
        return 0


def _too_much(memory: int) -> str:
    return f"it needs more than {memory / 1e9:.1f} GB of memory"
