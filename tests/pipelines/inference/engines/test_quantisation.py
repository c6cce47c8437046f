"""8 bits: calibrated on some windows, compared on others."""

import pytest
import torch

from pipelines.inference.engines import onnx
from pipelines.inference.engines.cache import given_export
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.engines.quantisation import export_int8

pytest.importorskip("onnxruntime")


class Convolutions(torch.nn.Module):
    """Few, as they take seconds each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, x):
        return self.layers(x)


def test_convolutions_become_8_bits(r2unet, tmp_path, monkeypatch):
    import onnx as package

    monkeypatch.setattr(r2unet, "network", Convolutions().eval())
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randn(1, 1, 16, 16, generator=generator) for _ in range(4)]
    path = tmp_path / "model_int8.onnx"
    check = export_int8(r2unet, {"onnx": path}, windows)["onnx"]
    assert check.windows == 2
    assert 0.9 < check.labels < 1
    assert set(check.dice) == {"lung", "liver"}
    assert all(value is None or value > 0.8 for value in check.dice.values())
    kinds = {node.op_type for node in package.load(str(path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    network, export = onnx.load(path)
    assert export.int8
    assert export.card["labels"] == r2unet.card["labels"]
    assert network(torch.cat(windows[:3])).shape == (3, 3, 16, 16)
    assert given_export(path, r2unet.network, r2unet, "fp32")[1] == "int8"


def test_one_window_is_not_enough(r2unet, tmp_path):
    with pytest.raises(EngineError, match="fewer than two; give more images with --data"):
        export_int8(r2unet, {"onnx": tmp_path / "model.onnx"}, [torch.zeros(1, 1, 16, 16)])
    assert list(tmp_path.iterdir()) == []
