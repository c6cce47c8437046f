"""A training killed again and again: `python -m tests.e2e.killed STRAIGHT CONFIG SEED KILLS` prints each kill.

First the config STRAIGHT is run without a kill; then CONFIG, and after the last kill it is run to its end.

torch, MONAI and MLflow are imported once, and each start of the training is a fork of this process, before any
thread runs. A fork is killed from outside at a random moment, or ends itself by SIGKILL at a dangerous place.
"""

import io
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

import mlflow  # noqa: F401  before the forks
import monai.bundle  # noqa: F401
import torch
from mlflow.tracking import MlflowClient

from pipelines.data import patch_build
from pipelines.data.patch_dataset import PatchDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.training import checkpoints
from pipelines.training import workflow as training
from pipelines.training.run_logger import Record
from pipelines.training.trainer import SegTrainer
from tests.pipelines import small

# Where a process dies, and up to how many times it may pass there before it does.
PLACES = {
    "in the store build": (patch_build, "_write_bytes", 4),
    "in loading a patch": (PatchDataset, "__getitem__", 9),
    "in the step": (SegTrainer, "_step", 5),
    "before the optimiser's step": (torch.optim.AdamW, "step", 5),
    "in validation": (SegEvaluator, "predict", 2),
    "in a checkpoint's bytes": (torch, "save", 9),
    "before a checkpoint is synced": (os, "fsync", 16),
    "around a rename": (Path, "replace", 14),
    "between the model's files": (checkpoints, "sha256_of", 2),
    "before the state is written": (checkpoints.Checkpoints, "save", 7),
    "in writing metrics": (MlflowClient, "log_batch", 3),
    "in opening the run": (training.Record, "begin", 1),
    "in closing the run": (Record, "end", 1),
    "after the end of the run": (training.Training, "_state", 9),
}


def main(straight: str, config: str, seed: int, kills: int) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    whole_run(straight)
    duration = time.monotonic() - started
    choose = random.Random(seed)
    names = list(PLACES)
    done = starts = 0
    while done < kills:
        # Every place has its turn, and moments in between.
        place = "at a random moment" if starts % 3 == 2 else names[(starts - starts // 3) % len(names)]
        starts += 1
        passes = choose.randint(1, PLACES[place][2]) if place in PLACES else 0
        after = choose.random() < 0.5
        delay = choose.uniform(0.0, 0.5) * duration
        minutes = choose.choice([0, 0, 10])
        child = os.fork()
        if child == 0:
            run(config, place, passes, after, minutes)
        status = wait(child, math.inf if passes else delay)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"place": place, "killed": killed}), flush=True)
        # A training that ended before its turn to be killed begins anew with the next start.
        if not killed and status != 0:
            raise SystemExit(f"a start ended by itself with status {status} ({place})")
        done += killed
    whole_run(config)


def whole_run(config: str) -> None:
    child = os.fork()
    if child == 0:
        run(config, "", 0, False, 10)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemExit(f"{config} ended with {code}")


def wait(child: int, seconds: float) -> int:
    """Status of a child, which is killed when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def run(config: str, place: str, passes: int, after: bool, minutes: float) -> None:
    """One start of the training in this process, which ends with it."""
    code = 1
    try:
        if passes:
            die_at(place, passes, after)
        log = os.open(Path(config).parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        small.run(config, checkpoint_minutes=minutes)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_at(place: str, passes: int, after: bool) -> None:
    owner, name, _ = PLACES[place]
    real = getattr(owner, name)
    count, process = 0, os.getpid()

    def call(*arguments, **options):
        nonlocal count
        count += 1
        if count < passes:
            return real(*arguments, **options)
        if place == "in a checkpoint's bytes":
            whole = io.BytesIO()
            real(arguments[0], whole)
            arguments[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
            arguments[1].flush()
        elif after:
            real(*arguments, **options)
        # Called in a loader worker it is the training, too, that dies.
        os.kill(process, signal.SIGKILL)
        if os.getpid() != process:
            os._exit(0)
        time.sleep(60)

    setattr(owner, name, call)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
