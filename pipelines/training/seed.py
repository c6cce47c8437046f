"""What a bundle's config calls before its training: the data, the seeds, the network that counts."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pipelines.data.cases import Dataset
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.demo import prepare_demo
from pipelines.training.trainer import unwrapped

DEMO = Path("data/demo")


def open_dataset(dataset_dir: str | os.PathLike, fold: int | None = None, seed: int = 0) -> Dataset:
    """The dataset in a folder; the public demo CT is prepared when `data/demo` is asked for and absent.

    Raises:
        DatasetError: the folder or a case in it cannot be used, see `pipelines.data.dataset_folder.load_dataset`.
    """
    if Path(dataset_dir) == DEMO:
        prepare_demo(DEMO)
    return load_dataset(Path(dataset_dir), fold=fold, seed=seed)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed weights, dropout and everything else that is not drawn from (seed, epoch, index).

    Args:
        deterministic: also refuse algorithms that differ from run to run; slower on a GPU.
    """
    from monai.utils import set_determinism

    set_determinism(seed, use_deterministic_algorithms=True if deterministic else None)
    if not deterministic:
        # set_determinism also forbids cuDNN to choose the fastest kernel, which costs a GPU up to half its speed.
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def evaluated_network(network: torch.nn.Module, average: torch.nn.Module | None) -> torch.nn.Module:
    """What validation looks at and `model.pt` keeps: the averaged weights where there are any."""
    return average if average is not None else unwrapped(network)
