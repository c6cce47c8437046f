"""The process groups of a training over several processes started by torchrun."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from pipelines.distributed.failures import Watch
from pipelines.utils.call_stack import beside_running_config
from pipelines.utils.ranks import local_rank
from transforms.errors import UserError

_T = TypeVar("_T")

# One host may preprocess its cases for hours while the others wait, and validation takes ranks unequally long.
GROUP_TIMEOUT = timedelta(days=7)

_control: torch.distributed.ProcessGroup | None = None


class DistributedError(UserError, RuntimeError):
    """The distributed overlay was started without torchrun, or the processes run different trainings."""


def rank_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none.

    Examples:
        >>> rank_device().type in ("cpu", "cuda")
        True
    """
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def start_distributed() -> None:
    """Join the processes that torchrun started: NCCL on GPUs, gloo on CPUs.

    Gradients are exchanged with torch's default time limit. Steps that may take ranks unequally long (preprocessing,
    validation, writing) use a second group, see `control_group`. From here on an error of one rank ends all of them,
    see `pipelines.distributed.failures`.

    Raises:
        DistributedError: not started by torchrun.
    """
    global _control
    if "RANK" not in os.environ:
        configs = ",".join(
            f"'{beside_running_config(name)}'" for name in ("train.json", "multi_gpu_train.json")
        )
        raise DistributedError(
            "multi_gpu_train.json needs torchrun, for example: torchrun --standalone --nproc_per_node=2 -m monai.bundle "
            f'run training --config_file "[{configs}]"'
        )
    device = rank_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")
    group = torch.distributed.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
    _control = cast(
        torch.distributed.ProcessGroup, group
    )  # never the "not a member" constant: the group includes all processes
    Watch.start()


def stop_distributed() -> None:
    """Wait for all ranks and leave the group; if one left earlier, ranks that still connect would fail."""
    global _control
    barrier()
    Watch.stop()
    _control = None
    torch.distributed.destroy_process_group()


def control_group() -> torch.distributed.ProcessGroup | None:
    """The gloo group of all processes, for objects and long waits; None stands for the default group."""
    return _control


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for all ranks, for at most `GROUP_TIMEOUT`."""
    if is_distributed():
        torch.distributed.barrier(group=_control)


def data_parallel(network: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """The network with gradients averaged over the processes; all start from rank 0's weights.

    Gradients are averaged in buckets during the backward pass, once per accumulation window. They are views of the
    buckets, which saves a copy.

    Args:
        network: on its device and in its memory format, see `place`.
        options: options of DistributedDataParallel, such as `bucket_cap_mb`.
    """
    barrier()
    device = next(network.parameters()).device
    # Of the random choices only dropout depends on torch's generator (weights are those of rank 0, patches depend on
    # their index); each rank needs its own dropout.
    if is_distributed():
        torch.manual_seed(torch.initial_seed() + torch.distributed.get_rank())
    given = {"gradient_as_bucket_view": True, **options}
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None, **given)


def share_buffers(network: torch.nn.Module) -> None:
    """Give every rank the buffers of rank 0, such as the running statistics of batch norm.

    DistributedDataParallel does so before each training step, so that they differ after the last step. Must be
    called by all ranks.
    """
    if is_distributed():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
