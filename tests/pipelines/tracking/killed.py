"""Trainings in processes that are killed."""

import multiprocessing
import os
import time

from pipelines.tracking.run import Tracking

FORK = multiprocessing.get_context("fork")


def train_forever(uri, said, experiment="e", work="w", **more):
    """Says steps as fast as it can, and notes each in a pipe once it is said."""
    tracking = Tracking(experiment, uri=uri, flush_seconds=0, system_metrics=None)
    run_id = tracking.start(tags={"segbundles.work": work}, **more)
    os.write(said, f"{run_id}\n".encode())
    for step in range(10**9):
        tracking.metrics({"loss": step * 0.5}, step)
        if step % 50 == 0:
            tracking.json({"step": step}, "state.json")
        os.write(said, f"{step}\n".encode())
        time.sleep(0.001)


def killed(seconds, target, *arguments, **more):
    """Run `target` in a process that is killed after some seconds; what it noted."""
    reading, writing = os.pipe()
    process = FORK.Process(target=target, args=(arguments[0], writing, *arguments[1:]), kwargs=more)
    process.start()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        noted = [stream.readline().strip()]
        time.sleep(seconds)
        process.kill()
        process.join()
        noted += stream.read().split()
    return noted
