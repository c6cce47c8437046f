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

from tests.e2e.clients import APPS, client, site_packages
from tests.e2e.commands import EVERYWHERE, Workplace
from tests.e2e.servers import free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

# What monailabel 0.8.5 asks for, without pydicom-seg, which pip refuses beside pydicom 3, and SAM 2.
NEEDS = [
    "uvicorn",
    "pydantic-settings",
    "python-dotenv",
    "fastapi",
    "python-multipart",
    "httpx",
    "schedule",
    "dicomweb-client[gcp]",
    "timeloop",
    "expiringdict",
    "expiring_dict",
    "cachetools",
    "watchdog",
    "pynetdicom",
    "pynrrd",
    "numpymaxflow",
    "girder-client",
    "ninja",
    "einops",
    "filelock",
    "passlib",
    "pyjwt",
    "bcrypt",
    "shapely",
    "requests-toolbelt",
    "google-auth",
    "itk",
    "torchvision",
    "gdown",
    "lmdb",
    "jsonschema",
    "tensorboard",
]
ALONE = (f"monailabel=={APPS['monailabel']}", "pydicom-seg==0.4.1")
# pydicom-seg imports a module that pydicom 3 no longer has; a build of torch for the CPU lacks operators that torchvision
# from PyPI describes as it is imported.
SHIM = """
import importlib.abc, sys, types


class Shim(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pydicom_seg":
            import pydicom.uid
            sys.modules.setdefault("pydicom._storage_sopclass_uids", pydicom.uid)
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
    """MONAI Label's monaibundle app with one bundle."""

    def __init__(self, python: Path, app: Path, studies: Path, log: Path) -> None:
        self.port, self.log = free_port(), log
        self.database = f"sqlite:///{log.parent / 'mlflow.db'}"
        self.words = [str(python), "-W", "ignore", "-m", "monailabel.main", "start_server", "--app", str(app)]
        self.words += ["--studies", str(studies), "--conf", "models", "lungs", "--conf", "zoo_source", "ngc"]
        self.words += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": self.database}
        with self.log.open("a", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                self.words,
                cwd=self.log.parent,
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
        body, kind = form({"params": '{"device": "cpu"}'})
        target.write_bytes(self.ask(f"/infer/lungs?image={image}&output=image", body, kind))
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


def form(fields: dict[str, str], files: dict[str, Path] | None = None) -> tuple[bytes, str]:
    """A form as a browser sends it, and its content type."""
    border = "border-of-the-form"
    parts = []
    for name, value in fields.items():
        parts.append(
            f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        )
    for name, path in (files or {}).items():
        head = f'--{border}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


@pytest.fixture(scope="module")
def python(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = client("monai_label", packaged, tmp_path_factory.mktemp("clients"), NEEDS, ALONE)
    (site_packages(found) / "sitecustomize.py").write_text(SHIM, encoding="utf-8")
    return found


@pytest.fixture
def app(python: Path, packaged: Path, tmp_path: Path) -> Path:
    """MONAI Label's own app, with the bundle among its models."""
    folder = shutil.copytree(
        site_packages(python).parents[2] / "monailabel" / "sample-apps" / "monaibundle", tmp_path / "app"
    )
    bundle = shutil.copytree(packaged, folder / "model" / "lungs")
    # After so short a training classes are nearly equal in many voxels, which bf16 rounds to either.
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8")) | EVERYWHERE
    (bundle / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def server(python: Path, app: Path, lungs_like: Path, tmp_path: Path) -> Iterator[Server]:
    studies = shutil.copytree(lungs_like / "images", tmp_path / "studies")
    found = Server(python, app, studies, tmp_path / "server.log")
    yield found
    found.stop()


def test_it_predicts_trains_and_predicts_with_what_it_has_trained(
    server: Server, app: Path, packaged: Path, lungs_like: Path, tmp_path: Path
) -> None:
    model = server.info()["models"]["lungs"]
    assert model["labels"] == {"left_lung": 1, "right_lung": 2}
    assert model["config"]["model_filename"] == ["model.pt"]

    place, image = Workplace(tmp_path / "predicted"), lungs_like / "images" / "validation_0.nii.gz"
    words = [
        "-m",
        "pipelines",
        "predict",
        str(image),
        "--bundle",
        "bundles/r2unet",
        "-o",
        str(place.root / "own"),
    ]
    words += ["--precision", "fp32", "--model"]
    place.run([*words, str(packaged / "models" / "model.pt")])
    expected = nib.load(place.root / "own" / image.name)
    found = server.infer("validation_0", tmp_path / "found.nii.gz")
    # MONAI Label does not choose the memory format, so that sums are rounded elsewhere.
    assert (found == np.asarray(expected.dataobj)).mean() > 0.9999
    np.testing.assert_allclose(nib.load(tmp_path / "found.nii.gz").affine, expected.affine, atol=1e-4)

    cases = sorted(path.name.split(".")[0] for path in (lungs_like / "images").iterdir())
    for case in cases:
        server.label(case, lungs_like / "labels" / f"{case}.nii.gz")
    before = (app / "model" / "lungs" / "models" / "model.pt").read_bytes()
    server.train(max_epochs=2, val_split=0.4)
    after = (app / "model" / "lungs" / "models" / "model.pt").read_bytes()
    assert after != before
    assert (app / "model" / "lungs" / "models" / "previous" / "001" / "model.pt").read_bytes() == before
    card = json.loads((app / "model" / "lungs" / "models" / "model.json").read_text(encoding="utf-8"))
    assert {case["case"] for case in card["validation"]} < set(cases)
    (run,) = MlflowClient(server.database).search_runs(["1"])
    assert run.inputs.dataset_inputs[0].dataset.name.startswith(f"{len(cases)} cases")
    assert "demo" not in json.dumps(run.to_dictionary())

    later = server.infer("validation_0", tmp_path / "later.nii.gz")
    place.run([*words, str(app / "model" / "lungs" / "models" / "model.pt"), "--overwrite"])
    expected = np.asarray(nib.load(place.root / "own" / image.name).dataobj)
    assert (later == expected).mean() > 0.9999
    # A server that is started anew offers the model, and no state of the training, which it would take for one.
    server.stop()
    server.start()
    assert server.info()["models"]["lungs"]["config"]["model_filename"] == ["model.pt"]
    assert (server.infer("validation_0", tmp_path / "again.nii.gz") == later).all()
