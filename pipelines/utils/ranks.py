"""Which of torchrun's processes this one is, by the variables that torchrun sets; alone without them."""

from __future__ import annotations

import os

__all__ = ["local_rank", "local_world_size", "rank", "world_size"]


def rank() -> int:
    """Number of this process among all, 0 to `world_size` - 1."""
    return _number("RANK", 0)


def world_size() -> int:
    """Number of processes on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes of this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(variable: str, alone: int) -> int:
    return int(os.environ.get(variable, alone))
