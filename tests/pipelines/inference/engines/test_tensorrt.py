"""TensorRT where there is no GPU: a sentence; where there is one, an engine."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pipelines.inference.engines import tensorrt
from pipelines.inference.engines.export import checked_export
from pipelines.inference.engines.formats import MissingError
from pipelines.inference.engines.sample_windows import made_up_window


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_how_else(r2unet, tmp_path: Path):
    with pytest.raises(MissingError, match="here is none; export on that machine, or export to onnx"):
        checked_export(r2unet, "tensorrt", tmp_path / "model_tensorrt.ts", made_up_window(r2unet))
    with pytest.raises(MissingError):
        tensorrt.load(tmp_path / "model_tensorrt.ts")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.skipif(importlib.util.find_spec("torch_tensorrt") is None, reason="needs Torch-TensorRT")
def test_an_engine_computes_what_torch_does(r2unet, tmp_path: Path):
    path = tmp_path / "model_tensorrt.ts"
    assert checked_export(r2unet, "tensorrt", path, made_up_window(r2unet)).close()
    network, export = tensorrt.load(path)
    assert export.card["labels"] == r2unet.card["labels"]
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), r2unet.network(x), atol=1e-2, rtol=1e-2)
