"""Ranks and numbers of processes from torchrun's environment variables; without them, those of a single process."""

from __future__ import annotations

import os

__all__ = ["local_rank", "local_world_size", "rank", "world_size"]


def rank() -> int:
    """Rank of this process among all, 0 to `world_size` - 1."""
    return _number("RANK", 0)


def world_size() -> int:
    """Number of processes on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Rank of this process among those of its machine."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes of this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
