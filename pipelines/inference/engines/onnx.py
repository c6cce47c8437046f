"""ONNX: a graph of standard operators, which ONNX Runtime, OpenVINO, TensorRT and others run."""

from __future__ import annotations

from pathlib import Path

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
    one_line,
    quiet,
    read_texts,
)

SUFFIX, EXTRA, RUNTIME = ".onnx", "export", "onnxruntime"
PRECISIONS = ("fp32",)
"""ONNX Runtime has no convolutions in bfloat16 or float16 for a CPU."""


def write(network: torch.nn.Module, window: torch.Tensor, path: Path, texts: Texts, sizes: str) -> None:
    """Write a network as ONNX, with its texts as `metadata_props`.

    Args:
        network: on the CPU, in evaluation mode.
        window: example (1, C, *window) float32.
        sizes: one of `SIZES`.

    Raises:
        MissingError: a package is missing.
    """
    needed("onnx", EXTRA)
    needed("onnxscript", EXTRA)
    axes = {SIZES[0]: (0, *range(2, window.ndim)), SIZES[1]: (0,), SIZES[2]: ()}[sizes]
    # An axis of one is taken to be always one.
    example = window.repeat(2, *[1] * (window.ndim - 1)) if axes else window
    shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),) if axes else None
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    save(program.model_proto, path, texts)


def save(model: object, path: Path, texts: Texts) -> None:
    """Write a model of the package onnx with these texts."""
    onnx = needed("onnx", EXTRA)
    onnx.helper.set_model_props(model, {CARD_KEY: texts.card, EXPORT_KEY: texts.export})
    onnx.save_model(model, str(path))


def load(path: Path, precision: str = "fp32") -> tuple[torch.nn.Module, Export]:
    """The network of a file of this project, run by ONNX Runtime, and what it says of itself.

    Raises:
        EngineError: the file is damaged, or ONNX Runtime is missing.
    """
    runtime = needed(RUNTIME, EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait actively take the time of other programs' threads, and with that of each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each version has its own kinds of errors
        raise EngineError(
            f"{path} cannot be opened by ONNX Runtime ({one_line(error)}); export it again"
        ) from error
    return OnnxNetwork(session), read_texts(session.get_modelmeta().custom_metadata_map, path)


class OnnxNetwork(torch.nn.Module):
    """An ONNX Runtime session as a network: windows (N, C, *window) to logits (N, classes, *window), on the CPU."""

    def __init__(self, session: object) -> None:
        super().__init__()
        self._session = session
        self._input = session.get_inputs()[0].name  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = np.ascontiguousarray(x.float().numpy())
        (logits,) = self._session.run(None, {self._input: given})  # type: ignore[attr-defined]
        return torch.from_numpy(logits)
