"""One training over several processes, started by torchrun."""

from __future__ import annotations

import os

import torch
from torch.nn.parallel import DistributedDataParallel


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
