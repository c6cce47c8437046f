"""What looks at, or disturbs, the ranks of a distributed training in tests; configs name these."""

import json
import os
import signal
import time
from pathlib import Path

import torch
from ignite.engine import Events
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


def rank():
    return int(os.environ.get("RANK", "0"))


class Witness:
    """Writes what each rank knows after every epoch to `epoch<E>_rank<R>.pt` of a folder."""

    def __init__(self, folder, evaluator=None):
        self.folder, self.evaluator = Path(folder), evaluator

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine):
        network = engine.network.module if hasattr(engine.network, "module") else engine.network
        known = {"iteration": engine.state.iteration, "weights": network.state_dict()}
        if self.evaluator is not None:
            state = self.evaluator.state
            known |= {"cases": state.cases, "metrics": state.metrics, "confusion": state.confusion}
            known["buffers"] = dict(self.evaluator.network.named_buffers())
        torch.save(known, self.folder / f"epoch{engine.state.epoch}_rank{rank()}.pt")


def counted(network, folder):
    """A DistributedDataParallel that notes every all-reduce of a bucket in `reduced_rank<R>.txt`."""

    def note(state, bucket):
        with (Path(folder) / f"reduced_rank{rank()}.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{bucket.index()} {bucket.buffer().numel()}\n")
        return allreduce_hook(state, bucket)

    network.register_comm_hook(None, note)
    return network


class Drawn:
    """Notes which patches a rank trains on, as epoch and cases of each batch, in `drawn_rank<R>.jsonl`."""

    def __init__(self, folder):
        self.path = Path(folder) / f"drawn_rank{rank()}.jsonl"

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        sums = [round(float(image.double().sum()), 6) for image in engine.state.batch["image"]]
        line = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, "patches": sums}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


class Trouble:
    """Makes one rank fail at an iteration: "nan", "error", "kill", or "stuck" (and the others hang for ever)."""

    def __init__(self, kind, on, at):
        self.kind, self.on, self.at = kind, on, at

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine):
        if engine.state.iteration != self.at:
            return
        if rank() != self.on:
            parent = os.getppid()
            while self.kind == "stuck" and os.getppid() == parent:
                time.sleep(1.0)
            return
        if self.kind == "nan":
            engine.state.batch["image"][:] = float("nan")
        elif self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise RuntimeError("the test ends this rank here")
