"""What a bundle's config calls before its training: the data, the seeds, the network that counts."""

from __future__ import annotations

import random
from typing import Any, TypedDict

import numpy as np
import torch


class RandomState(TypedDict):
    """Where all random number generators of a process stand, as tensors and plain types.

    Attributes:
        torch: on the CPU.
        cuda: on each GPU.
        numpy, python: what `numpy.random.get_state` and `random.getstate` give, their words as tensors.
    """

    torch: torch.Tensor
    cuda: list[torch.Tensor]
    numpy: list[Any]
    python: list[Any]


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed weights, dropout and everything else that is not drawn from (seed, epoch, index).

    Args:
        deterministic: also refuse algorithms that differ from run to run; slower on a GPU.

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
        # set_determinism also forbids cuDNN to choose the fastest kernel, which costs a GPU up to half its speed.
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def random_state() -> RandomState:
    """The state of all random number generators of this process: torch on CPU and GPUs, numpy, Python.

    Loader workers have none to carry on: what they draw follows from seed, epoch and index.
    """
    # numpy's global generator is the one that other people's transforms draw from.
    name, words, place, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]  # noqa: NPY002
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(words).astype(np.int64)), place, has_gauss, gauss],
        "python": [version, torch.tensor(numbers), next_gauss],
    }


def set_random_state(state: RandomState) -> None:
    """Put back what `random_state` gave; GPUs only where there are as many as before."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, words, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), next_gauss))
