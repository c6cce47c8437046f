"""The time of one training step by kind of work, measured with torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# Kind of work: beginnings of the names of events, none of which lies within another of these.
KINDS = {
    "convolutions, forward": ("aten::convolution", "aten::conv_transpose"),
    "convolutions, backward": ("ConvolutionBackward", "_PaddedWeightGradientBackward"),
    "norm and ReLU, forward": (
        "_FusedGroupNorm",
        "aten::group_norm",
        "aten::batch_norm",
        "aten::instance_norm",
    ),
    "norm and ReLU, backward": ("_FusedGroupNormBackward", "NativeGroupNormBackward"),
    "pooling and interpolation": (
        "aten::max_pool2d",
        "aten::max_pool3d",
        "aten::upsample",
        "MaxPool",
        "Upsample",
    ),
    "loss": ("_Sums", "_SumsBackward"),
    "optimiser and clipping": ("Optimizer.step", "aten::_foreach_norm", "aten::linalg_vector_norm"),
}


def shares(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Percent of a step's time by kind of work; of the device's time on CUDA, of the host's elsewhere."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as seen:
        step()
        if cuda:
            torch.cuda.synchronize()
    events = seen.key_averages()
    total = sum(e.self_device_time_total if cuda else e.self_cpu_time_total for e in events)
    result = dict.fromkeys(KINDS, 0.0)
    for event in events:
        name = event.key.removeprefix("autograd::engine::evaluate_function: ")
        if name != event.key:
            continue  # the same work, one level up
        spent = event.device_time_total if cuda else event.cpu_time_total
        # The longest beginning that fits: the backward of a function begins like its forward.
        fits = [
            (len(start), kind) for kind, starts in KINDS.items() for start in starts if name.startswith(start)
        ]
        within = name.startswith("aten::") and name.endswith(("_backward", "_with_indices"))
        if fits and not within:
            result[max(fits)[1]] += 100 * spent / total
    result["everything else"] = 100 - sum(result.values())
    return result
