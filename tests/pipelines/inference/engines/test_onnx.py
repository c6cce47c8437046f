"""ONNX under plain ONNX Runtime."""

import json

import numpy as np
import pytest
import torch

from pipelines.inference.engines import onnx
from pipelines.inference.engines.formats import SIZES, EngineError

onnxruntime = pytest.importorskip("onnxruntime")


def test_plain_onnx_runtime_runs_it_at_other_sizes(r2unet, onnx_file):
    path, check = onnx_file
    assert check.sizes == SIZES[0]
    assert check.close()
    assert check.labels > 0.999
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["model_card"])
    assert card["labels"] == r2unet.card["labels"]
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["image", "logits"]
    for shape in ((1, 1, 16, 16), (3, 1, 20, 34)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = r2unet.network(x).numpy()
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], expected, atol=1e-4)


def test_a_loaded_network_takes_windows_of_any_memory_format(r2unet, onnx_file):
    network, export = onnx.load(onnx_file[0])
    assert export.card["sha256"] == r2unet.card["sha256"]
    x = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(x.flip(-1)), r2unet.network(x.flip(-1)), atol=1e-4, rtol=1e-4)
        last = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(last), r2unet.network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_damaged_file_is_one_sentence(onnx_file, tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file[0].read_bytes()[:5000] if content is None else content)
    with pytest.raises(EngineError, match=r"model\.onnx cannot be opened by ONNX Runtime"):
        onnx.load(path)
