"""OpenVINO, in an environment of its own: it is not among the packages for development."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from pipelines.inference.engines import openvino
from pipelines.inference.engines.export import checked_export
from pipelines.inference.engines.formats import SIZES, MissingError
from pipelines.inference.engines.sample_windows import made_up_window
from tests.conftest import REPOSITORY


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="OpenVINO is installed")
def test_where_it_is_absent_that_is_said(r2unet, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"pip install 'segbundles\[openvino\]'"):
        checked_export(r2unet, "openvino", tmp_path / "model_openvino", made_up_window(r2unet))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MissingError, match="needs the package openvino"):
        openvino.load(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `with_openvino` says in an environment with all packages of this one, and OpenVINO as it is pinned."""
    folder = tmp_path_factory.mktemp("openvino")
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pin = next(line for line in lines if line.startswith("openvino=="))
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    shared = Path(inside.stdout.strip()) / "shared.pth"
    shared.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", pin]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("OpenVINO cannot be installed here")
    work = folder / "work"
    work.mkdir()
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "tests.pipelines.inference.engines.with_openvino", work],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((work / "answer.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_openvino_alone_runs_what_the_command_wrote(told: dict[str, Any], r2unet: Any) -> None:
    assert told["plain"]["status"] == 0
    assert told["plain"]["labels"] == r2unet.card["labels"]
    assert max(told["plain"]["apart"]) < 1e-4
    assert told["upernet"] == SIZES[0]
    assert "model_openvino cannot be opened by OpenVINO" in told["damaged"]


@pytest.mark.slow
def test_predictions_are_the_same_and_the_export_is_made_once(told: dict[str, Any]) -> None:
    found = told["predictions"]
    assert {each["status"] for each in found.values()} == {0}
    assert {each["right"] for each in found.values()} == {True}
    assert found["openvino"]["computed"] == {"device": "cpu", "engine": "openvino", "precision": "fp32"}
    assert found["eager"]["computed"]["engine"] == "eager"
    assert found["auto"]["computed"]["engine"] == "eager", "little work does not pay for another"
    assert len(found["openvino"]["made"]) == 1
    assert found["again"]["made"] == found["openvino"]["made"]


@pytest.mark.slow
def test_fp32_and_bf16(told: dict[str, Any]) -> None:
    (exact, first), (rounded, second) = (told["precisions"][name] for name in ("fp32", "bf16"))
    assert exact > 0.9999
    assert 0.95 < rounded < 1
    assert (first["precision"], second["precision"]) == ("fp32", "bf16")
    assert told["auto"] in ("eager", "onnx", "openvino")


@pytest.mark.slow
def test_8_bits(told: dict[str, Any]) -> None:
    assert told["int8"]["int8"] is True
    assert 0.9 < told["int8"]["labels"] < 1
