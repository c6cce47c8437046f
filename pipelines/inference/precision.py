"""The number format in which a network computes: given by name, or the fastest on this machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pipelines.distributed.collectives import of_all_ranks
from pipelines.distributed.process_group import is_distributed
from transforms.errors import SettingError

__all__ = ["AUTO", "PRECISIONS", "autocast", "choose_precision", "common_precision", "resolve_precision"]

logger = logging.getLogger(__name__)

AUTO = "auto"
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# bfloat16 is less exact, so it is chosen only if it takes less than this fraction of the time of float32.
WORTHWHILE = 0.8
# If already the first pass takes this many times as long as in float32, no further passes are timed.
HOPELESS = 10
# Each format is timed at least REPEATS times and for at least ENOUGH seconds. The shortest time is used, as other
# programs disturb some passes.
REPEATS, ENOUGH = 5, 0.2


class Choice(NamedTuple):
    """A chosen precision, and the reason as the end of a sentence."""

    value: str
    reason: str


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """Automatic mixed precision by name, on any device.

    Raises:
        SettingError: the precision is not one of fp32, bf16, fp16.
    """
    dtype = PRECISIONS[_known(precision, tuple(PRECISIONS))]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`precision` itself, or for "auto" the result of `choose_precision` for the device.

    Raises:
        SettingError: the precision is not one of auto, fp32, bf16, fp16.
    """
    if _known(precision, (AUTO, *PRECISIONS)) != AUTO:
        return precision
    return choose_precision(torch.device(device)).value


def common_precision(precision: str, device: torch.device | str) -> str:
    """`resolve_precision` with the same result on every rank of a training: float32 if the ranks' results differ.

    The scaled gradients of fp16 must not be averaged with unscaled ones. All ranks must call this together.
    """
    own = resolve_precision(precision, device)
    if not is_distributed():
        return own
    found = sorted(set(of_all_ranks(own)))
    if len(found) > 1:
        logger.info("precision: fp32, since the processes would have chosen %s", " and ".join(found))
    return found[0] if len(found) == 1 else "fp32"


@functools.lru_cache
def choose_precision(device: torch.device) -> Choice:
    """The fastest precision of a device, and the reason. It is determined and logged once per process.

    On CUDA it is bf16 if the device supports it, else fp16. On a CPU it is bf16 only if a small convolution, forward
    and backward, is measurably faster than in float32: some processors with bf16 instructions are slower, and some
    have none for the backward pass. In deterministic mode a CPU is not timed, so that the same processor always gives
    the same result.
    """
    choice = _choose_on_cuda(device) if device.type == "cuda" else _choose_elsewhere(device)
    logger.info("precision: %s, since %s", *choice)
    return choice


def _choose_on_cuda(device: torch.device) -> Choice:
    name = torch.cuda.get_device_name(device)
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16", f"the {name} supports it")
    return Choice("fp16", f"the {name} does not support bf16")


def _choose_elsewhere(device: torch.device) -> Choice:
    if device.type != "cpu":
        return Choice("fp32", f"other formats are not tested on devices of type '{device.type}'")
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Choice("fp32", "this processor has no instructions for convolutions in bf16")
    if torch.are_deterministic_algorithms_enabled():
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return Choice(
            "bf16" if fast else "fp32", "it is chosen by the processor's instructions in deterministic mode"
        )
    try:
        share = bf16_share()
    except RuntimeError as error:
        return Choice("fp32", f"a convolution in bf16 fails on this processor ({str(error).splitlines()[0]})")
    value = "bf16" if share < WORTHWHILE else "fp32"
    return Choice(
        value, f"on this processor a convolution in bf16 takes {share:.2f} times as long as in fp32"
    )


def bf16_share() -> float:
    """Ratio of the times of a small 3D convolution, forward and backward, in bf16 and in float32 on this CPU.

    Raises:
        RuntimeError: a pass in bf16 is not possible.
    """
    # A separate generator: this timing must not change the initial weights, which the global generator draws.
    generator = torch.Generator().manual_seed(0)
    # Two samples, since torch does not use oneDNN for a single small sample in float32.
    x = torch.randn(2, 16, 24, 24, 24, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(16, 16, 3, 3, 3, generator=generator).contiguous(
        memory_format=torch.channels_last_3d
    )

    def seconds(dtype: torch.dtype) -> float:
        image, kernel = (value.to(dtype).requires_grad_() for value in (x, weight))
        started = time.perf_counter()
        y = F.conv3d(image, kernel, padding=1)
        torch.autograd.grad(y, (image, kernel), y.detach())
        return time.perf_counter() - started

    single, half = torch.float32, torch.bfloat16
    # The first pass of each is a warm-up, in which the kernels are created.
    first = (seconds(single), seconds(half))
    if first[1] > HOPELESS * first[0]:
        return first[1] / first[0]
    started = time.perf_counter()
    times: list[tuple[float, float]] = []
    while len(times) < REPEATS or time.perf_counter() - started < ENOUGH:
        times.append((seconds(single), seconds(half)))
    return min(b for _, b in times) / min(a for a, _ in times)


def _known(precision: str, names: tuple[str, ...]) -> str:
    if precision not in names:
        raise SettingError(f"precision '{precision}' is unknown; choose one of {', '.join(names)}")
    return precision
