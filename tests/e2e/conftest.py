"""What tests of whole commands share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.deployment.packaging import assemble
from tests.e2e.commands import REPOSITORY, SMALL, Workplace
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


@pytest.fixture(scope="session")
def packaged(lungs_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a training of seconds, as other people get it: without the data."""
    folder = tmp_path_factory.mktemp("packaged")
    place = Workplace(folder / "trained")
    short = {
        "epochs": 1,
        "patches_per_epoch": 2,
        "features": "[4,8]",
        "pictures": 0,
        "dataset_dir": lungs_like,
    }
    place.run(place.training("r2unet", **(SMALL | short)))
    return assemble(REPOSITORY / "bundles" / "r2unet", folder / "r2unet", place.root / "models")
