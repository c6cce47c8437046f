"""One training, or one prediction of a cohort, over several processes started by torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from pipelines.distributed.failures import Watch
from pipelines.utils.ranks import local_rank, world_size

_T = TypeVar("_T")

# One host may preprocess its cases for hours while the others have theirs, and validations are uneven.
PATIENCE = timedelta(days=7)

_control: torch.distributed.ProcessGroup | None = None


class DistributedError(RuntimeError):
    """The distributed overlay runs without torchrun, or the processes do not do the same training."""


def rank_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def start_distributed() -> None:
    """Join the processes that torchrun started: NCCL on GPUs, gloo on CPUs.

    Gradients have torch's own time limit. Whatever may take ranks unequally long (preprocessing, validation,
    writing) goes over a second group, see `control_group`. From here on an error of one rank ends them all, see
    `pipelines.distributed.failures`.

    Raises:
        DistributedError: not started by torchrun.
    """
    global _control
    if "RANK" not in os.environ:
        raise DistributedError(
            "multi_gpu.json needs torchrun, for example: torchrun --standalone --nproc_per_node=2 -m monai.bundle "
            "run training --config_file \"['bundles/r2unet/train.json','bundles/r2unet/multi_gpu.json']\""
        )
    device = rank_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    _control = cast(torch.distributed.ProcessGroup, group)  # no process is left out
    Watch.start()


def stop_distributed() -> None:
    """Leave together: a rank that is gone while another still connects would break it."""
    global _control
    together()
    Watch.stop()
    _control = None
    torch.distributed.destroy_process_group()


def control_group() -> torch.distributed.ProcessGroup | None:
    """The processes over gloo, for objects and for waiting without a time limit; None is the default group."""
    return _control


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def together() -> None:
    """Wait for all ranks, as long as it takes."""
    if is_distributed():
        torch.distributed.barrier(group=_control)


def data_parallel(network: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """The network with gradients averaged over the processes; all start from rank 0's weights.

    Gradients are averaged in buckets while the backward pass goes on, once in an accumulation window, and lie in
    the buckets themselves, which saves a copy of them.

    Args:
        network: on its device and in its memory format, see `place`.
        options: of DistributedDataParallel, such as `bucket_cap_mb`.
    """
    together()
    device = next(network.parameters()).device
    # Weights are those of rank 0 and patches follow from their index: what is left to draw is dropout, and each rank
    # needs its own.
    if is_distributed():
        torch.manual_seed(torch.initial_seed() + torch.distributed.get_rank())
    given = {"gradient_as_bucket_view": True, **options}
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None, **given)


def share_buffers(network: torch.nn.Module) -> None:
    """Give every rank the buffers of rank 0, such as the running statistics of batch norm.

    DistributedDataParallel does so before each training step, so that after the last one they differ. Called by
    all ranks together.
    """
    if is_distributed():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def from_first(decide: Callable[[], _T]) -> _T:
    """What rank 0 gets, on every rank; its error is the others' too. Called by all ranks together."""
    if not is_distributed():
        return decide()
    # An error of rank 0 needs no answer: its end is that of the ranks that wait here.
    answer = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, 0, group=_control)
    return answer[0]  # type: ignore[return-value]


def of_all_ranks(value: Any) -> list[Any]:
    """A value of every rank, by rank; in a single process its own alone. Called by all ranks together."""
    if not is_distributed():
        return [value]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, value, group=_control)
    return everyone


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
    world = world_size()
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
