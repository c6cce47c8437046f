"""MONAI Label serves a packaged bundle: its own server, asked over HTTP."""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.e2e.clients import client_of_page, site_packages
from tests.e2e.commands import EVERYWHERE, PRECISE, Workplace
from tests.e2e.page_commands import EXAMPLES, page_commands, run_commands
from tests.e2e.servers import free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

# A build of torch for the CPU lacks operators that torchvision from PyPI describes as it is imported.
SHIM = """
import importlib.abc, sys


class Shim(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            from torch import library, version
            if version.cuda is None:
                self.kept = library.Library("torchvision", "DEF")
                for each in ("nms", "qnms"):
                    self.kept.define(f"{each}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Shim())
"""


class Server:
    """MONAI Label's monaibundle app with one bundle.

    Args:
        start: the page's command, which is run in `folder`.
        ask: the page's request for a label.
        folder: for MLflow's database and what the server says.
    """

    def __init__(self, start: str, ask: str, folder: Path) -> None:
        self.port, self.folder, self.log = free_port(), folder, folder / "server.log"
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self.command = f"exec {start.strip()} --host 127.0.0.1 --port {self.port}"
        self.request = ask.replace(":8000", f":{self.port}")
        assert self.request != ask
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": self.database}
        with self.log.open("a", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", self.command],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
        wait_for(self.is_up, self.process, said=lambda: self.log.read_text(encoding="utf-8")[-3000:])

    def is_up(self) -> bool:
        try:
            self.ask("/info/")
        except urllib.error.URLError:
            return False
        return True

    def ask(self, path: str, body: bytes | None = None, kind: str = "", method: str | None = None) -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read()

    def info(self) -> Any:
        return json.loads(self.ask("/info/"))

    def infer(self, image: str, target: Path) -> np.ndarray:
        named = {"image=ct&": f"image={image}&", "labels.nii.gz": str(target)}
        request = self.request
        for text, own in named.items():
            assert text in request
            request = request.replace(text, own)
        run_commands(request, self.folder)
        return np.asarray(nib.load(target).dataobj)

    def label(self, image: str, path: Path) -> None:
        body, kind = form({"params": "{}"}, {"label": path})
        self.ask(f"/datastore/label?image={image}&tag=final", body, kind, "PUT")

    def train(self, **wishes: Any) -> None:
        body = json.dumps({"device": "cpu", **wishes}).encode()
        self.ask("/train/lungs?run_sync=true", body, "application/json")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)


def form(fields: dict[str, str], files: dict[str, Path]) -> tuple[bytes, str]:
    """A form as a browser sends it, and its content type."""
    border = "border-of-the-form"
    parts = []
    for name, value in fields.items():
        parts.append(
            f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        )
    for name, path in files.items():
        head = f'--{border}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


@pytest.fixture
def server(
    packaged: Path, lungs_like: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """MONAI Label's own app, with the bundle among its models, by the commands of the page."""
    studies = shutil.copytree(lungs_like / "images", tmp_path / "studies")
    install, begin, ask = page_commands(
        "use_a_model.md", "MONAI Label", {**EXAMPLES, "BUNDLE": packaged, "IMAGES": studies}
    )
    python = client_of_page("monai_label", install, tmp_path_factory.mktemp("clients"))
    (site_packages(python) / "sitecustomize.py").write_text(SHIM, encoding="utf-8")
    (tmp_path / "monai_label").symlink_to(python.parents[1])
    copy, start = begin.splitlines()
    run_commands(copy, tmp_path)
    # After so short a training classes are nearly equal in many voxels, which bf16 rounds to either.
    config = tmp_path / "app" / "model" / "lungs" / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | EVERYWHERE), "utf-8")
    found = Server(start, ask, tmp_path)
    yield found
    found.stop()


def test_it_predicts_trains_and_predicts_with_what_it_has_trained(
    server: Server, packaged: Path, lungs_like: Path, tmp_path: Path
) -> None:
    models = tmp_path / "app" / "model" / "lungs" / "models"
    model = server.info()["models"]["lungs"]
    assert model["labels"] == {"left_lung": 1, "right_lung": 2}
    assert model["config"]["model_filename"] == ["model.pt"]

    place, image = Workplace(tmp_path / "predicted"), lungs_like / "images" / "validation_0.nii.gz"
    expected = nib.load(place.predict(image, packaged / "models" / "model.pt", *PRECISE))
    found = server.infer("validation_0", tmp_path / "found.nii.gz")
    # MONAI Label does not choose the memory format, so that sums are rounded elsewhere.
    assert (found == np.asarray(expected.dataobj)).mean() > 0.9999
    np.testing.assert_allclose(nib.load(tmp_path / "found.nii.gz").affine, expected.affine, atol=1e-4)

    cases = sorted(path.name.split(".")[0] for path in (lungs_like / "images").iterdir())
    for case in cases:
        server.label(case, lungs_like / "labels" / f"{case}.nii.gz")
    before = (models / "model.pt").read_bytes()
    server.train(max_epochs=2, val_split=0.4)
    after = (models / "model.pt").read_bytes()
    assert after != before
    assert (models / "previous" / "001" / "model.pt").read_bytes() == before
    card = json.loads((models / "model.json").read_text(encoding="utf-8"))
    assert {case["case"] for case in card["validation"]} < set(cases)
    (run,) = MlflowClient(server.database).search_runs(["1"])
    assert run.inputs.dataset_inputs[0].dataset.name.startswith(f"{len(cases)} cases")
    assert "demo" not in json.dumps(run.to_dictionary())

    later = server.infer("validation_0", tmp_path / "later.nii.gz")
    expected = nib.load(place.predict(image, models / "model.pt", *PRECISE, "--overwrite"))
    assert (later == np.asarray(expected.dataobj)).mean() > 0.9999
    # A server that is started anew offers the model, and no state of the training, which it would take for one.
    server.stop()
    server.start()
    assert server.info()["models"]["lungs"]["config"]["model_filename"] == ["model.pt"]
    assert (server.infer("validation_0", tmp_path / "again.nii.gz") == later).all()
