"""Runs functions in processes that are killed."""

import multiprocessing
import os
import time

from pipelines.tracking.run import Tracking

FORK = multiprocessing.get_context("fork")


def train_forever(uri, pipe, experiment="e", work="w", **options):
    """Log steps as fast as possible; write the id of the run and then each logged step to a pipe."""
    tracking = Tracking(experiment, uri=uri, flush_seconds=0, system_metrics=None)
    run_id = tracking.start(tags={"segbundles.work": work}, **options)
    os.write(pipe, f"{run_id}\n".encode())
    for step in range(10**9):
        tracking.metrics({"loss": step * 0.5}, step)
        if step % 50 == 0:
            tracking.json({"step": step}, "state.json")
        os.write(pipe, f"{step}\n".encode())
        time.sleep(0.001)


def killed(seconds, target, *arguments, **options):
    """Run `target` in a process that is killed after some seconds; returns the lines that it wrote to its pipe."""
    reading, writing = os.pipe()
    process = FORK.Process(target=target, args=(arguments[0], writing, *arguments[1:]), kwargs=options)
    process.start()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        lines = [stream.readline().strip()]
        time.sleep(seconds)
        process.kill()
        process.join()
        lines += stream.read().split()
    return lines
