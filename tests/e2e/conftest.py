"""What tests of whole commands share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.servers import MlflowServer


@pytest.fixture(scope="module")
def server(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server on SQLite; every test leaves it running."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "server.db")
    made = MlflowServer(folder, "sqlite:///server.db")
    made.start()
    yield made
    made.kill()
