"""Seeding of a training, and the state of its random number generators."""

from __future__ import annotations

import random
from typing import Any, TypedDict

import numpy as np
import torch


class RandomState(TypedDict):
    """The state of all random number generators of a process, as tensors and plain types.

    Attributes:
        torch: torch's generator of the CPU.
        cuda: torch's generator of each GPU.
        numpy, python: results of `numpy.random.get_state` and `random.getstate`, with their arrays as tensors.
    """

    torch: torch.Tensor
    cuda: list[torch.Tensor]
    numpy: list[Any]
    python: list[Any]


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed the global random number generators, from which initial weights and dropout are drawn.

    Patches and their augmentation do not depend on them, but on (seed, epoch, index).

    Args:
        seed: the seed.
        deterministic: also forbid algorithms whose results differ from run to run; slower on a GPU.

    Examples:
        >>> seed_everything(0)
        >>> first = torch.rand(3)
        >>> seed_everything(0)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    from monai.utils import set_determinism

    set_determinism(seed, use_deterministic_algorithms=True if deterministic else None)
    if not deterministic:
        # set_determinism also stops cuDNN from choosing the fastest kernel, which can halve the speed of a GPU.
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def random_state() -> RandomState:
    """The state of all random number generators of this process: torch on CPU and GPUs, numpy, Python.

    Loader workers need no saved state: their random numbers depend only on seed, epoch and index.
    """
    # Third-party transforms may draw from numpy's global generator.
    name, words, place, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]  # noqa: NPY002
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(words).astype(np.int64)), place, has_gauss, gauss],
        "python": [version, torch.tensor(numbers), next_gauss],
    }


def set_random_state(state: RandomState) -> None:
    """Restore a result of `random_state`; the GPUs' part only if their number is the same."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, words, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), next_gauss))
