"""One training, or one prediction of a cohort, over several processes started by torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch.nn.parallel import DistributedDataParallel

_T = TypeVar("_T")


class DistributedError(RuntimeError):
    """The distributed overlay runs without torchrun."""


def rank_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def start_distributed() -> None:
    """Join the processes that torchrun started: NCCL on GPUs, gloo on CPUs.

    Raises:
        DistributedError: not started by torchrun.
    """
    if "RANK" not in os.environ:
        raise DistributedError(
            "multi_gpu.json needs torchrun, for example: torchrun --standalone --nproc_per_node=2 -m monai.bundle "
            "run training --config_file \"['bundles/r2unet/train.json','bundles/r2unet/multi_gpu.json']\""
        )
    device = rank_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop_distributed() -> None:
    torch.distributed.destroy_process_group()


def data_parallel(network: torch.nn.Module) -> torch.nn.Module:
    """The network with gradients averaged over the processes; all start from rank 0's weights."""
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


class Ranks:
    """The processes that share out the cases of a cohort; a single one without torchrun."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world

    def first(self, decide: Callable[[], _T]) -> _T:
        """What rank 0 decides, on every rank; an error of rank 0 ends them all."""
        if self.world == 1:
            return decide()
        answer: list[Any] = [None, None]
        error: Exception | None = None
        if self.rank == 0:
            try:
                answer = [decide(), None]
            except Exception as caught:
                error = caught
                answer = [None, str(caught)]
        torch.distributed.broadcast_object_list(answer)
        if error is not None:
            raise error
        if answer[1] is not None:
            raise SystemExit(1)  # rank 0 says why
        return answer[0]

    def gather(self, items: Sequence[_T]) -> list[_T] | None:
        """The items of all ranks on rank 0, of the others only their own; None where a rank has died."""
        if self.world == 1:
            return list(items)
        everyone: list[Any] | None = [None] * self.world if self.rank == 0 else None
        try:
            torch.distributed.gather_object(list(items), everyone)
        except RuntimeError:
            return None
        return list(items) if everyone is None else [item for part in everyone for item in part]


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did, for work that shares nothing but a list of cases.

    Always over gloo: only names and numbers are exchanged, and ranks may wait for one another for days.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield Ranks()
        return
    if torch.distributed.is_initialized():
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
