"""A model in MLflow, asked as its clients ask."""

import base64
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pipelines.deployment.mlflow_model import write_model
from tests.e2e.servers import free_port
from tests.pipelines import tiny_model
from tests.pipelines.small import write_ct
from tests.waiting import answers, wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow model that is right without training."""
    folder = tmp_path_factory.mktemp("served")
    tiny_model.write_model(folder / "models")
    return write_model(folder / "model", folder / "models", None)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A CT, and the labels that the model finds in it."""
    folder = tmp_path_factory.mktemp("images")
    case = write_ct(folder, "ct")
    return Path(case["image"]), np.asarray(nib.load(case["label"]).dataobj)


def in_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def labels_of(found: dict, folder: Path) -> np.ndarray:
    path = folder / f"answer.{found['format']}"
    path.write_bytes(base64.b64decode(found["labels"]))
    return np.asarray(nib.load(path).dataobj)


def test_a_loaded_model_takes_paths_arrays_and_tables(model: Path, image: tuple, tmp_path: Path) -> None:
    import mlflow

    path, label = image
    loaded = mlflow.pyfunc.load_model(str(model))
    assert np.array_equal(loaded.predict(str(path)), label)
    affine = nib.load(path).affine
    assert np.array_equal(
        loaded.predict({"image": np.asarray(nib.load(path).dataobj), "affine": affine}), label
    )
    for text in (str(path), in_base64(path)):
        found = loaded.predict(pd.DataFrame({"image": [text]}), params={"precision": "fp32", "overlap": 0.25})
        assert np.array_equal(labels_of(found[0], tmp_path), label)
    with pytest.raises(Exception, match="nothing"):
        loaded.predict(str(path), params={"overlap": "nothing"})


def test_the_model_says_what_it_answers_and_its_own_example_works(model: Path, tmp_path: Path) -> None:
    import mlflow

    info = mlflow.models.get_model_info(str(model))
    assert info.signature.outputs.input_names() == ["labels", "format", "names", "volumes"]
    assert [param.name for param in info.signature.params.params] == ["precision", "overlap"]
    loaded = mlflow.pyfunc.load_model(str(model))
    found = loaded.predict(mlflow.models.Model.load(str(model)).load_input_example(str(model)))
    assert labels_of(found[0], tmp_path).shape == (8, 8, 8)


@pytest.mark.slow
def test_a_server_loses_no_request_of_several_clients(model: Path, image: tuple, tmp_path: Path) -> None:
    path, label = image
    port = free_port()
    words = [
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(model),
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    # MLflow starts uvicorn by its name, which lies beside this Python.
    path_of_commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path_of_commands, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def ask(body: dict) -> dict:
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    try:
        wait_for(
            lambda: answers(url),
            server,
            said=lambda: (tmp_path / "log").read_text(encoding="utf-8"),
        )
        forms = [
            {"inputs": [str(path)]},
            {"inputs": in_base64(path)},
            {"dataframe_split": {"columns": ["image"], "data": [[in_base64(path)]]}},
            {"dataframe_records": [{"image": str(path)}], "params": {"precision": "fp32", "overlap": 0.25}},
        ]
        with concurrent.futures.ThreadPoolExecutor(4) as clients:
            found = list(clients.map(ask, forms * 5))
        assert len(found) == 20
        for each in found:
            assert len(each["predictions"]) == 1
            assert np.array_equal(labels_of(each["predictions"][0], tmp_path), label)
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask({"inputs": ["/no/such/ct.nii.gz"]})
        assert "neither a file or folder on the machine that serves" in caught.value.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
