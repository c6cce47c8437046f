"""Exports beside the model: made once, never those of other weights."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from pipelines.inference.engines.cache import FOLDER, Cache, format_for_engine, given_export
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.engines.sample_windows import made_up_window
from pipelines.inference.trained_model import TrainedModel
from tests.pipelines.tiny_model import write_model

pytest.importorskip("onnxruntime")


def made(trained):
    window = made_up_window(trained)
    cache = Cache(trained, trained.network, "onnx")
    network = cache.load(window, "fp32")
    with torch.inference_mode():
        torch.testing.assert_close(network(window), trained.network(window), atol=1e-2, rtol=1e-4)
    return cache.path


def exports(trained):
    return sorted((trained.path.parent / FOLDER).glob("*.onnx"))


def test_it_is_made_once_and_anew_for_other_weights(oracle, caplog):
    caplog.set_level(logging.INFO)
    path = made(oracle)
    assert exports(oracle) == [path]
    before = path.stat().st_mtime_ns
    assert made(TrainedModel(oracle.path)) == path
    assert path.stat().st_mtime_ns == before
    assert caplog.text.count("engine: exported to") == 1
    # Trained on: the same file name, other weights.
    changed = TrainedModel(write_model(oracle.path.parent, shift=0.01))
    other = made(changed)
    assert other != path
    assert exports(changed) == [other], "that of the earlier weights is gone"
    with pytest.raises(EngineError, match=r"is an export of other weights than .*pipelines export"):
        given_export(other, oracle.network, oracle, "fp32")
    assert given_export(other, changed.network, changed, "fp32")[1] == "fp32"
    # A file under the name of these weights that holds those: by a copy, or on purpose.
    shutil.copy(other, path)
    assert made(oracle) == path
    # A file that was cut off by a full disk of another program.
    path.write_bytes(path.read_bytes()[:100])
    assert made(oracle) == path


def test_where_nothing_can_be_written_it_is_made_each_time(oracle, caplog):
    caplog.set_level(logging.INFO)
    (oracle.path.parent / FOLDER).write_text("a file where the folder should be", encoding="utf-8")
    made(oracle)
    assert "the network is exported again each time" in caplog.text
    assert (oracle.path.parent / FOLDER).is_file()


def test_only_graphs_are_run():
    """A TorchScript is a program."""
    assert format_for_engine(Path("model.onnx")) == "onnx"
    assert format_for_engine(Path("model_openvino/model.xml")) == "openvino"
    with pytest.raises(EngineError, match="run exports to onnx and openvino, not to torchscript"):
        format_for_engine(Path("model.ts"))
