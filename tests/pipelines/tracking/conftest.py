"""Fixtures of the tracking tests: an MLflow database, and timeouts that are long enough for slow machines."""

import shutil
from pathlib import Path

import pytest

from tests.pipelines.tracked_runs import patient


@pytest.fixture
def database(template, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    patient(monkeypatch)
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"
