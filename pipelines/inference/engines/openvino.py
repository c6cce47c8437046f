"""OpenVINO: a folder with `model.xml` and `model.bin`, which OpenVINO runs on CPUs, in bfloat16 where a CPU has it."""

from __future__ import annotations

import json
import subprocess
import sys
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
    one_line,
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
    file = path if path.suffix == ".xml" else path / MODEL
    try:
        model = core.read_model(file)
        texts = {
            key: model.get_rt_info([_SECTION, key]).astype(str)
            for key in (CARD_KEY, EXPORT_KEY)
            if model.has_rt_info([_SECTION, key])
        }
    except Exception as error:  # OpenVINO raises RuntimeError and others
        raise EngineError(
            f"{path} cannot be opened by OpenVINO ({one_line(error)}); export it again"
        ) from error
    return OpenvinoNetwork(core, file, model, precision), read_texts(texts, path)


class OpenvinoNetwork(torch.nn.Module):
    """A model of OpenVINO as a network: windows (N, C, *window) to logits (N, classes, *window), on the CPU.

    It is compiled for each shape of windows, of which a prediction has one or two, since with a free size it is slower.
    OpenVINO can end the whole process where it does not support a network or processor, so each is first tried in another
    one; where that one ends, sizes stay free.

    Raises:
        EngineError: OpenVINO cannot run the network here.
    """

    def __init__(self, core: Any, path: Path, model: Any, precision: str) -> None:
        super().__init__()
        self._core, self._path, self._model = core, path, model
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._requests: dict[tuple[int, ...], Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = np.ascontiguousarray(x.float().numpy())
        if given.shape not in self._requests:
            self._requests[given.shape] = self._request(given.shape)
        # A copy: the memory of the request is written again by the next windows.
        return torch.from_numpy(np.array(self._requests[given.shape].infer({0: given})[0]))

    def _request(self, shape: tuple[int, ...]) -> Any:
        said = ""
        for fixed in (True, False):
            said = self._tried(shape, fixed)
            if not said:
                model = self._model.clone()
                if fixed:
                    model.reshape(list(shape))
                return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        raise EngineError(
            f"OpenVINO cannot run {self._path} for windows of {shape} on this processor: {said}"
        )

    def _tried(self, shape: tuple[int, ...], fixed: bool) -> str:
        """What is wrong in a process that runs one window; empty if nothing is."""
        task = {"path": str(self._path), "shape": shape, "fixed": fixed, "settings": self._settings}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _TRIAL, json.dumps(task)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode == 0:
            return ""
        lines = done.stderr.strip().splitlines()
        return lines[-1][:300] if lines else f"a process that tried it ended with status {done.returncode}"


# With nothing of this project: a process that starts in a second.
_TRIAL = """
import json, sys
import numpy, openvino
task = json.loads(sys.argv[1])
core = openvino.Core()
model = core.read_model(task["path"])
if task["fixed"]:
    model.reshape(task["shape"])
request = core.compile_model(model, "CPU", task["settings"]).create_infer_request()
request.infer({0: numpy.zeros(task["shape"], numpy.float32)})
"""
