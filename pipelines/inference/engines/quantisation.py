"""Networks in whole numbers of 8 bits, by the quantiser of ONNX Runtime, with ranges measured on real windows."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipelines.inference.engines import onnx, openvino
from pipelines.inference.engines.export import checked_export, compared, placing, plain_copy
from pipelines.inference.engines.formats import EngineError, needed, quiet, texts_of
from pipelines.inference.trained_model import TrainedModel

__all__ = ["INT8", "Int8Check", "export_int8"]

INT8 = ("onnx", "openvino")
"""Formats that have whole numbers of 8 bits."""
MARK = "_int8"
"""Ends the stem of their names: `model_int8.onnx`."""


class Int8Check(NamedTuple):
    """A quantised network beside the network itself, on windows with which it was not calibrated.

    Attributes:
        labels: fraction of the voxels with the same class.
        dice: name of a class to the Dice of the two; None where neither has it.
        windows: how many were compared.
        sizes: what it takes, one of `SIZES`.
    """

    labels: float
    dice: dict[str, float | None]
    windows: int
    sizes: str


def export_int8(
    trained: TrainedModel, paths: dict[str, Path], windows: Sequence[torch.Tensor]
) -> dict[str, Int8Check]:
    """Write the network of a model with convolutions in 8 bits.

    Args:
        trained: the model.
        paths: name of each format, of `INT8`, to its file or folder.
        windows: real windows (1, C, *window): every other one calibrates, the rest are compared.

    Returns:
        name of each format to its check.

    Raises:
        EngineError: there are fewer than two windows, or the network cannot be exported.
        MissingError: a package is missing.
    """
    if len(windows) < 2:
        raise EngineError(
            "8 bits are calibrated on real windows, of which there are fewer than two; give more images with --data"
        )
    calibrating, comparing = windows[::2], windows[1::2]
    found = {}
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        sizes = checked_export(trained, "onnx", whole, windows[0]).sizes
        _quantise(whole, small, calibrating)
        _, export = onnx.load(whole)
        texts = texts_of(trained.card, export.weights, sizes, int8=True)
        network = plain_copy(trained.network)
        for name, path in paths.items():
            with placing(path, name == "openvino") as temporary:
                if name == "onnx":
                    onnx.save(needed("onnx", onnx.EXTRA).load(str(small)), temporary, texts)
                    quantised, _ = onnx.load(temporary)
                else:
                    core = needed(openvino.RUNTIME, openvino.EXTRA).Core()
                    openvino.save(core.read_model(small), temporary, texts)
                    quantised, _ = openvino.load(temporary)
                found[name] = _checked(trained, network, quantised, comparing, sizes)
    return found


def _quantise(source: Path, target: Path, windows: Sequence[torch.Tensor]) -> None:
    """Convolutions only: what lies between them, norms above all, stays in float32."""
    quantization: Any = needed("onnxruntime.quantization", onnx.EXTRA)
    model = needed("onnx", onnx.EXTRA).load(str(source), load_external_data=False)
    name = model.graph.input[0].name

    class Windows(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(windows)

        def get_next(self) -> dict[str, Any] | None:
            window = next(self.left, None)
            return None if window is None else {name: window.numpy()}

    root = logging.getLogger()
    level = root.level
    # It recommends further steps, on the root logger.
    root.setLevel(logging.ERROR)
    try:
        with quiet():
            quantization.quantize_static(
                str(source),
                str(target),
                Windows(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def _checked(
    trained: TrainedModel,
    network: torch.nn.Module,
    quantised: torch.nn.Module,
    windows: Sequence[torch.Tensor],
    sizes: str,
) -> Int8Check:
    labels = compared(network, quantised, windows).labels
    both = {value: [0, 0] for value in range(1, len(trained.labels))}
    with torch.inference_mode():
        for window in windows:
            first, second = (each(window).argmax(1) for each in (network, quantised))
            for value, counts in both.items():
                counts[0] += 2 * int(((first == value) & (second == value)).sum())
                counts[1] += int((first == value).sum() + (second == value).sum())
    dice = {trained.labels[value]: a / b if b else None for value, (a, b) in both.items()}
    return Int8Check(labels, dice, len(windows), sizes)
