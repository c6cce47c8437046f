"""The engine of a prediction: the same labels, and no surprise in what is used."""

import logging

import pytest
import torch

from pipelines.inference.engines import engine as module
from pipelines.inference.engines.engine import Engine, Work
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.engines.sample_windows import made_up_window
from pipelines.inference.ensemble import trained_model
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.sliding_window import SlidingWindow
from tests.pipelines.small import write_ct
from tests.pipelines.tiny_model import write_model
from transforms.errors import SettingError
from transforms.preprocess import Preprocess

CPU = torch.device("cpu")


def work(trained, windows=1, asked="fp32", precision="fp32", device=CPU):
    return Work(made_up_window(trained), windows, device, asked, precision)


def evaluator(trained, engine, precision="fp32", mirror_axes=()):
    window = SlidingWindow(trained.patch_size, mirror_axes=mirror_axes)
    network = place(trained.network, "cpu", "auto", precision)
    return SegEvaluator(
        "cpu", [None], network, trained.preprocess, trained.class_names, window, precision, engine=engine
    )


def item_of(path):
    preprocess = Preprocess()
    prepared = preprocess.image(path)
    return {
        "image": preprocess.normalise(prepared.codes, prepared.intensity)[None],
        "geometry": prepared.geometry.to_dict(),
        "padding": preprocess.padding_value(prepared.intensity),
        "case": "ct",
    }


def test_an_exported_network_gives_the_same_labels(r2unet, onnx_file, tmp_path):
    """Random weights: their labels have more borders than those of a trained network."""
    item = item_of(write_ct(tmp_path, "ct", shape=(40, 33, 6))["image"])
    eager = evaluator(r2unet, Engine("eager", r2unet))
    exported = evaluator(r2unet, Engine(str(onnx_file[0]), r2unet))
    first, second = eager.segment(item), exported.segment(item)
    assert first.labels.unique().numel() == 3
    assert (first.labels == second.labels).double().mean() > 0.9999
    assert eager.computed == {"device": "cpu", "engine": "eager", "precision": "fp32"}
    assert exported.computed == {"device": "cpu", "engine": "onnx", "precision": "fp32"}
    for name, value in first.confidence.confidence.items():
        assert second.confidence.confidence[name] == pytest.approx(value, abs=1e-3)


def test_members_of_an_ensemble_are_exported_one_by_one(tmp_path):
    """So that what they agree on is still heard."""
    pytest.importorskip("onnxruntime")
    trained = trained_model([write_model(tmp_path / str(n), shift=n / 100) for n in range(2)])
    item = item_of(write_ct(tmp_path, "ct")["image"])
    found = [
        evaluator(trained, Engine(name, trained), mirror_axes=(1,)).segment(item)
        for name in ("eager", "onnx")
    ]
    assert torch.equal(found[0].labels, found[1].labels)
    assert found[1].confidence.pass_agreement == pytest.approx(found[0].confidence.pass_agreement, abs=1e-3)
    assert [len(list((tmp_path / str(seed) / "engines").glob("*.onnx"))) for seed in range(2)] == [1, 1]
    with pytest.raises(SettingError, match="is one network, but the model is an ensemble"):
        Engine(str(next((tmp_path / "0" / "engines").glob("*.onnx"))), trained)


def test_auto_takes_what_is_faster(r2unet, onnx_file, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "onnxruntime" or None)
    exported = {}

    def load(self, name, network, window, precision):
        return exported.setdefault(name, torch.nn.Identity())

    monkeypatch.setattr(Engine, "_exported", load)
    for seconds, used in (({"eager": 1.0, "onnx": 0.5}, "onnx"), ({"eager": 1.0, "onnx": 0.95}, "eager")):
        monkeypatch.setattr(
            module,
            "_seconds",
            lambda network, *given, s=seconds: s["eager" if network is r2unet.network else "onnx"],
        )
        engine = Engine("auto", r2unet)
        network = engine.network_for(
            r2unet.network, work(r2unet, windows=1000, asked="auto", precision="bf16")
        )
        assert network is (exported["onnx"] if used == "onnx" else r2unet.network)
        assert (engine.used, engine.precision) == (used, "fp32" if used == "onnx" else "bf16")
        assert engine.network_for(r2unet.network, work(r2unet)) is network, "decided once"
    assert "engine: onnx, since a window takes 1 s with eager, 0.5 s with onnx" in caplog.text


def test_auto_leaves_little_work_to_torch(r2unet, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Engine, "_exported", lambda *given: pytest.fail("it was exported"))
    engine = Engine("auto", r2unet)
    assert engine.network_for(r2unet.network, work(r2unet, windows=8)) is r2unet.network
    assert "engine: eager, since 0 s of work do not pay for trying" in caplog.text
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert Engine("auto", r2unet).network_for(r2unet.network, work(r2unet, 10**9)) is r2unet.network
    assert "since none of openvino and onnx is installed" in caplog.text


def test_auto_uses_nothing_that_computes_something_else(r2unet, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "onnxruntime" or None)
    wrong = torch.nn.Conv2d(1, 3, 1)
    monkeypatch.setattr(module.Cache, "load", lambda self, window, precision: wrong)
    engine = Engine("auto", r2unet)
    assert engine.network_for(r2unet.network, work(r2unet, 10**9)) is r2unet.network
    assert "engine: eager" in caplog.text
    assert "onnx is left out: the export" in caplog.text
    with pytest.raises(EngineError, match=r"does not compute what the model computes.*use --engine eager"):
        Engine("onnx", r2unet).network_for(r2unet.network, work(r2unet))


def test_what_an_engine_cannot_do_is_said(r2unet, tmp_path):
    with pytest.raises(
        SettingError, match="no engine and no exported network 'fast'; choose one of eager, compile"
    ):
        Engine("fast", r2unet)
    with pytest.raises(EngineError, match="is no exported network"):
        Engine(str(tmp_path), r2unet)
    bf16 = work(r2unet, asked="bf16", precision="bf16")
    with pytest.raises(SettingError, match="onnx computes in fp32, not in bf16; use --precision auto"):
        Engine("onnx", r2unet).network_for(r2unet.network, bf16)
    cuda = work(r2unet, device=torch.device("cuda"))
    with pytest.raises(SettingError, match="openvino computes on a CPU"):
        Engine("openvino", r2unet).network_for(r2unet.network, cuda)
    assert Engine("auto", r2unet).network_for(r2unet.network, cuda) is r2unet.network


@pytest.mark.slow
def test_compile_gives_the_same_labels(r2unet, tmp_path):
    item = item_of(write_ct(tmp_path, "ct", shape=(40, 33, 6))["image"])
    found = [evaluator(r2unet, Engine(name, r2unet)) for name in ("eager", "compile")]
    first, second = (each.predict(item) for each in found)
    assert (first == second).double().mean() > 0.9999
    assert found[1].computed["engine"] == "compile"
