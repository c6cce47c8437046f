"""TensorRT: a TorchScript around an engine for one kind of NVIDIA GPU, made with MONAI and Torch-TensorRT."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.inference.engines.formats import (
    CARD_KEY,
    EXPORT_KEY,
    SIZES,
    EngineError,
    Export,
    MissingError,
    Texts,
    needed,
    quiet,
)
from pipelines.inference.engines.torchscript import load as load_torchscript

SUFFIX = "_tensorrt.ts"
MOST_WINDOWS = 32
"""Largest batch: as many windows as `SlidingWindow` puts through a network at once."""


def require() -> None:
    """Raise MissingError unless this machine can build an engine of TensorRT."""
    if not torch.cuda.is_available():
        raise MissingError(
            "an engine of TensorRT is built on the GPU that it is for, and here is none; export on that machine, or "
            "export to onnx and build it there with: trtexec --onnx=model.onnx --saveEngine=model.plan"
        )
    needed("torch_tensorrt", "tensorrt")


def write(network: torch.nn.Module, window: torch.Tensor, path: Path, texts: Texts, sizes: str) -> None:
    """Write a network as a TorchScript with an engine of TensorRT in fp32, with its texts as extra files.

    Args:
        network: in evaluation mode.
        window: example (1, C, *window) float32.
        sizes: `SIZES[1]` or `SIZES[2]`: the size of the window is fixed.

    Raises:
        MissingError: there is no GPU, or Torch-TensorRT is missing.
    """
    from monai.data import save_net_with_metadata
    from monai.networks.utils import convert_to_trt

    require()
    if sizes == SIZES[0]:
        raise EngineError("an engine of TensorRT has windows of one size")
    batches = [1, 1, MOST_WINDOWS] if sizes == SIZES[1] else None
    with quiet():
        made = convert_to_trt(network.cuda(), "fp32", list(window.shape), batches)
    extra = {CARD_KEY: texts.card.encode(), EXPORT_KEY: texts.export.encode()}
    save_net_with_metadata(made, str(path), more_extra_files=extra)


def load(path: Path, precision: str = "fp32") -> tuple[torch.nn.Module, Export]:
    """The network of a file of this project, run by TensorRT on the GPU, and what it says of itself."""
    require()
    network, export = load_torchscript(path)
    return OnGpu(network), export


class OnGpu(torch.nn.Module):
    """A network on the GPU that takes windows from anywhere, and answers where they came from."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.cuda()).to(x.device)
