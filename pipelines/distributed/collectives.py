"""Exchange of values between the processes of a distributed training.

Sums and maxima use ignite. Objects are sent with torch's collectives over `control_group`, whose time limit is long,
because ignite 0.5.5 is not sufficient for them. Its broadcast takes only tensors, numbers, texts and paths, has no
argument for a group, and converts numbers to float32 (2**24 + 1 is received as 2**24). Its gathering of objects exchanges
the lengths of texts over the default group and fails for "ééé". It also cannot end all ranks when rank 0 fails.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import ignite.distributed as idist
import torch

from pipelines.distributed.process_group import control_group, is_distributed
from pipelines.utils.ranks import world_size

_T = TypeVar("_T")


def from_first(decide: Callable[[], _T]) -> _T:
    """Call a function on rank 0 and return its result on every rank. Must be called by all ranks."""
    if not is_distributed():
        return decide()
    # An error of rank 0 need not be sent here: when rank 0 ends, the waiting ranks fail too.
    answer = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, 0, group=control_group())
    return answer[0]  # type: ignore[return-value]


def of_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, in the order of the ranks. Must be called by all ranks."""
    if not is_distributed():
        return [value]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, value, group=control_group())
    return everyone


class Ranks:
    """The processes among which the cases of a cohort are distributed; a single one without torchrun."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world

    def first(self, decide: Callable[[], _T]) -> _T:
        """Call a function on rank 0 and return its result on every rank; an error of rank 0 ends all ranks."""
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
            raise SystemExit(1)  # rank 0 reports the reason
        return answer[0]

    def gather(self, items: Sequence[_T]) -> list[_T] | None:
        """On rank 0 the items of all ranks, on other ranks their own; None if another rank has ended."""
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
    """Join the processes that torchrun started (if any) for work that only shares a list of cases.

    The backend is always gloo, because only names and numbers are exchanged; the time limit is seven days.
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


def mean_of_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks, on its device. Must be called by all ranks."""
    # all_reduce overwrites its argument.
    total = cast(torch.Tensor, idist.all_reduce(value.detach().clone()))
    return total / idist.get_world_size()


def max_of_ranks(value: int) -> int:
    """The greatest of the values of all ranks. Must be called by all ranks."""
    return int(idist.all_reduce(value, "MAX"))


def part_of_rank(parts: Sequence[Any], rank: int) -> Any:
    """The value of this rank in the result of `of_all_ranks` of an earlier start; None if there were fewer ranks."""
    return parts[rank] if rank < len(parts) else None
