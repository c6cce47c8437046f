"""What `test_openvino` asks where OpenVINO is installed: `python -m tests.pipelines.inference.engines.with_openvino FOLDER`.

Prints one JSON object.
"""

import json
import logging
import os
import sys
from pathlib import Path

os.environ["SEGBUNDLES_NETWORKS"] = "tests.pipelines.tiny_model.Halting"

import numpy as np
import openvino
import torch

from networks import UPerNet
from pipelines.__main__ import main
from pipelines.inference.engines import openvino as ours
from pipelines.inference.engines.engine import Engine
from pipelines.inference.engines.export import checked_export
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.engines.quantisation import export_int8
from pipelines.inference.engines.sample_windows import made_up_window
from pipelines.inference.ensemble import trained_model
from tests.pipelines.inference.engines.models import write_r2unet
from tests.pipelines.inference.engines.test_engine import evaluator, item_of, work
from tests.pipelines.small import write_ct
from tests.pipelines.tiny_model import read, write_model


def plain(folder: Path) -> dict:
    """Written by the command, run by OpenVINO alone."""
    model = write_r2unet(folder / "r2unet")
    status = main(["export", str(model), "--to", "openvino"])
    core = openvino.Core()
    read_model = core.read_model(folder / "r2unet" / "model_openvino" / "model.xml")
    card = json.loads(read_model.get_rt_info(["segbundles", "model_card"]).astype(str))
    network = trained_model(model).network
    compiled = core.compile_model(read_model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    apart = []
    for shape in ((1, 1, 16, 16), (3, 1, 20, 34)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            apart.append(float(np.abs(compiled(x.numpy())["logits"] - network(x).numpy()).max()))
    return {"status": status, "labels": card["labels"], "apart": apart}


def upernet(folder: Path) -> str:
    """A network of another kind, in 3D."""
    trained = trained_model(write_r2unet(folder / "other"))
    torch.manual_seed(0)
    network = UPerNet(3, 1, 3, encoder="resnet18", fpn_channels=8).eval()
    window = torch.randn(1, 1, 64, 64, 64)
    return checked_export(trained, "openvino", folder / "upernet_openvino", window, network).sizes


def predictions(folder: Path) -> dict:
    """The command, twice with OpenVINO: the second time it finds the export."""
    model = write_model(folder / "oracle")
    case = write_ct(folder, "ct")
    found = {}
    for name in ("eager", "openvino", "again", "auto"):
        engine = "openvino" if name == "again" else name
        words = [
            "predict",
            case["image"],
            "-o",
            folder / name,
            "--bundle",
            "bundles/r2unet",
            "--model",
            model,
        ]
        words += ["--engine", engine, "--precision", "fp32"]
        status = main([str(word) for word in words])
        labels = read(folder / name / "ct.nii.gz")
        report = json.loads((folder / name / "ct.json").read_text(encoding="utf-8"))
        made = [path.stat().st_mtime_ns for path in (model.parent / "engines").glob("*_openvino/model.xml")]
        right = bool((labels == read(case["label"])).all())
        found[name] = {"status": status, "right": right, "computed": report["computed"], "made": made}
    return found


def precisions(folder: Path) -> dict:
    """Random weights, whose labels have more borders than those of a trained network."""
    trained = trained_model(folder / "r2unet" / "model.pt")
    item = item_of(write_ct(folder / "more", "ct", shape=(40, 33, 6))["image"])
    eager = evaluator(trained, Engine("eager", trained)).predict(item)
    found = {}
    for precision in ("fp32", "bf16"):
        engine = evaluator(trained, Engine("openvino", trained), precision)
        labels = engine.predict(item)
        found[precision] = [float((labels == eager).double().mean()), engine.computed]
    return found


def auto(folder: Path) -> str | None:
    """With as much work as there can be: a choice by time, whichever it is."""
    trained = trained_model(folder / "r2unet" / "model.pt")
    engine = Engine("auto", trained)
    engine.network_for(trained.network, work(trained, windows=10**9))
    return engine.used


def int8(folder: Path) -> dict:
    trained = trained_model(folder / "r2unet" / "model.pt")
    windows = [torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    path = folder / "model_int8_openvino"
    labels = export_int8(trained, {"openvino": path}, windows)["openvino"].labels
    return {"labels": labels, "int8": ours.load(path)[1].int8, "window": list(made_up_window(trained).shape)}


def damaged(folder: Path) -> str:
    (folder / "model_openvino").mkdir()
    (folder / "model_openvino" / "model.xml").write_text("<net", encoding="utf-8")
    try:
        ours.load(folder / "model_openvino")
    except EngineError as error:
        return str(error)
    return ""


def answer(folder: Path) -> dict:
    parts = (plain, upernet, predictions, precisions, auto, int8, damaged)
    return {part.__name__: part(folder) for part in parts}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    where = Path(sys.argv[1])
    told = json.dumps(answer(where))
    (where / "answer.json").write_text(told, encoding="utf-8")
