"""OpenVINO: a folder with `model.xml` and `model.bin`, which OpenVINO runs on CPUs, in bfloat16 where a CPU has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.inference.engines.formats import (
    CARD_KEY,
    EXPORT_KEY,
    INPUT,
    OUTPUT,
    SIZES,
    EngineError,
    Export,
    Texts,
    needed,
    quiet,
    read_texts,
)

SUFFIX, EXTRA, RUNTIME = "_openvino", "openvino", "openvino"
MODEL = "model.xml"
PRECISIONS = ("fp32", "bf16")
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_SECTION = "segbundles"


def write(network: torch.nn.Module, window: torch.Tensor, path: Path, texts: Texts, sizes: str) -> None:
    """Write a network as an OpenVINO IR into the folder `path`, with its texts as `rt_info`.

    Args:
        network: on the CPU, in evaluation mode.
        window: example (1, C, *window) float32.
        sizes: one of `SIZES`.

    Raises:
        MissingError: OpenVINO is missing.
    """
    openvino = needed(RUNTIME, EXTRA)
    with torch.no_grad(), quiet():
        model = openvino.convert_model(network, example_input=window)
    free = [-1] * (window.ndim - 2)
    batch, *rest = {
        SIZES[0]: (-1, *free),
        SIZES[1]: (-1, *window.shape[2:]),
        SIZES[2]: (1, *window.shape[2:]),
    }[sizes]
    model.reshape([batch, window.shape[1], *rest])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    save(model, path, texts)


def save(model: Any, path: Path, texts: Texts) -> None:
    """Write a model of OpenVINO into a folder, with these texts."""
    openvino = needed(RUNTIME, EXTRA)
    model.set_rt_info(texts.card, [_SECTION, CARD_KEY])
    model.set_rt_info(texts.export, [_SECTION, EXPORT_KEY])
    # Weights in float16, the default, would change labels.
    openvino.save_model(model, path / MODEL, compress_to_fp16=False)


def load(path: Path, precision: str = "fp32") -> tuple[torch.nn.Module, Export]:
    """The network of a folder of this project, run by OpenVINO, and what it says of itself.

    Args:
        path: the folder, or the `model.xml` in it.
        precision: "fp32" or "bf16"; OpenVINO computes in fp32 where the CPU has no bf16.

    Raises:
        EngineError: the files are damaged, or OpenVINO is missing.
    """
    openvino = needed(RUNTIME, EXTRA)
    core = openvino.Core()
    try:
        model = core.read_model(path if path.suffix == ".xml" else path / MODEL)
        texts = {
            key: model.get_rt_info([_SECTION, key]).astype(str)
            for key in (CARD_KEY, EXPORT_KEY)
            if model.has_rt_info([_SECTION, key])
        }
    except Exception as error:  # OpenVINO raises RuntimeError and others
        raise EngineError(
            f"{path} cannot be opened by OpenVINO ({str(error)[:300]}); export it again"
        ) from error
    return OpenvinoNetwork(core, model, precision), read_texts(texts, path)


class OpenvinoNetwork(torch.nn.Module):
    """A model of OpenVINO as a network: windows (N, C, *window) to logits (N, classes, *window), on the CPU.

    It is compiled for each shape of windows, of which a prediction has one or two: with a free size it is slower.
    """

    def __init__(self, core: Any, model: Any, precision: str) -> None:
        super().__init__()
        self._core, self._model = core, model
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._requests: dict[tuple[int, ...], Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = np.ascontiguousarray(x.float().numpy())
        if given.shape not in self._requests:
            model = self._model.clone()
            model.reshape(list(given.shape))
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._requests[given.shape] = compiled.create_infer_request()
        # A copy: the memory of the request is written again by the next windows.
        return torch.from_numpy(np.array(self._requests[given.shape].infer({0: given})[0]))
