"""TorchScript: `torch.jit.load` runs the file in Python or C++, without any code of this project."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import save_net_with_metadata

from pipelines.inference.engines.formats import CARD_KEY, EXPORT_KEY, SIZES, Export, Texts, quiet, read_texts

SUFFIX = ".ts"


def write(network: torch.nn.Module, window: torch.Tensor, path: Path, texts: Texts, sizes: str) -> None:
    """Write a network as TorchScript, with its texts as extra files beside MONAI's `metadata.json`.

    Args:
        network: on the CPU, in evaluation mode.
        window: example (1, C, *window) float32.
        sizes: a network that cannot be scripted is traced with the window, which is tried for `SIZES[1]` and below.
    """
    with torch.no_grad(), quiet():
        made = torch.jit.script(network) if sizes == SIZES[0] else torch.jit.trace(network, window)
    extra = {CARD_KEY: texts.card.encode(), EXPORT_KEY: texts.export.encode()}
    save_net_with_metadata(made, str(path), more_extra_files=extra)


def load(path: Path, precision: str = "fp32") -> tuple[torch.nn.Module, Export]:
    """The network of a file of this project, and what it says of itself.

    A TorchScript is a program: load only what you trust (docs/security.md).

    Raises:
        EngineError: it says nothing of itself.
    """
    extra = {CARD_KEY: "", EXPORT_KEY: ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in extra.items()}
    return network, read_texts(texts, path)
