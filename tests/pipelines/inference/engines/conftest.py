"""Exports take seconds: what tests do not change is made once."""

from pathlib import Path

import pytest

from pipelines.inference.engines.export import FORMATS, Check, checked_export
from pipelines.inference.engines.sample_windows import made_up_window
from pipelines.inference.trained_model import TrainedModel
from tests.pipelines.inference.engines.models import write_r2unet
from tests.pipelines.tiny_model import write_model


@pytest.fixture(scope="session")
def r2unet(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return TrainedModel(write_r2unet(tmp_path_factory.mktemp("r2unet")))


@pytest.fixture
def oracle(tmp_path: Path) -> TrainedModel:
    """A model that knows the HU of every class."""
    return TrainedModel(write_model(tmp_path / "oracle"))


@pytest.fixture(scope="session")
def onnx_file(r2unet: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Check]:
    """The R2U-Net as ONNX, and what the check said."""
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("exported") / f"model{FORMATS['onnx'].suffix}"
    return path, checked_export(r2unet, "onnx", path, made_up_window(r2unet))
