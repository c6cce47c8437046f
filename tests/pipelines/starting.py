"""Starts of one training, one after the other: `python -m tests.pipelines.starting CONFIG LOGS STARTS`.

STARTS is a JSON list of pairs of Python statements, done before the training and after it; each start is a fork of
this process, which has everything imported, and writes what it says to LOGS/0, LOGS/1, ... Prints their exit codes.
"""

import json
import os
import signal
import sys
from pathlib import Path

import mlflow  # noqa: F401  before the forks
import monai.bundle  # noqa: F401
import torch

from pipelines.tracking import delivery_thread as shipping  # noqa: F401
from pipelines.tracking import run as tracking  # noqa: F401
from pipelines.tracking.journal import Journal  # noqa: F401
from pipelines.training import workflow as training  # noqa: F401
from tests.pipelines import small


def die(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(owner, name):
    real = getattr(owner, name)

    def call(*given, **more):
        real(*given, **more)
        die()

    setattr(owner, name, call)


def main(config, logs, starts):
    torch.set_num_threads(1)
    codes = []
    for number, (before, after) in enumerate(json.loads(starts)):
        child = os.fork()
        if child == 0:
            log = os.open(Path(logs) / str(number), os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            exec(before)
            small.run(config)
            exec(after)
            return  # and ends as any process does
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
