"""Values that the processes of a distributed training share.

Sums and maxima are ignite's. Objects go over torch's own collectives and `control_group`, which has no time limit:
ignite 0.5.5 broadcasts only tensors, numbers, texts and paths, without a group and numbers as float32 (2**24 + 1 came as
2**24); it gathers objects over a group, but measures texts over the default one, and failed at "ééé". An error of rank 0
that ends the others too it does not have.
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
    """What rank 0 gets, on every rank; its error is the others' too. Called by all ranks together."""
    if not is_distributed():
        return decide()
    # An error of rank 0 needs no answer: its end is that of the ranks that wait here.
    answer = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, 0, group=control_group())
    return answer[0]  # type: ignore[return-value]


def of_all_ranks(value: Any) -> list[Any]:
    """A value of every rank, by rank; in a single process its own alone. Called by all ranks together."""
    if not is_distributed():
        return [value]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, value, group=control_group())
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


def mean_of_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks, on its device. Called by all ranks together."""
    # The sum takes the place of what is given.
    total = cast(torch.Tensor, idist.all_reduce(value.detach().clone()))
    return total / idist.get_world_size()


def max_of_ranks(value: int) -> int:
    """The greatest of the values of all ranks. Called by all ranks together."""
    return int(idist.all_reduce(value, "MAX"))


def part_of_rank(parts: Sequence[Any], rank: int) -> Any:
    """The part of this rank out of `of_all_ranks` of an earlier start; None if there were fewer ranks."""
    return parts[rank] if rank < len(parts) else None
