"""An MLflow that is too old, as it is on PyPI: of the server, and of the environment that a command runs in."""

import sqlite3
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.clients import client, site_packages
from tests.e2e.commands import SMALL, Workplace
from tests.e2e.servers import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# The last one before MLflow 3; it cannot use the SQLAlchemy of today, which its requirements allow.
OLD = ["mlflow==2.22.4", "sqlalchemy<2.1"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the old MLflow, which finds everything else where this one has it."""
    found = client("mlflow_2", tmp_path_factory.mktemp("clients"), OLD)
    path = f"{sysconfig.get_path('purelib')}\n{REPOSITORY}\n"
    (site_packages(found) / "others.pth").write_text(path, encoding="utf-8")
    return found


def test_a_training_does_not_begin_with_an_older_server(
    python: Path, lungs_like: Path, tmp_path: Path
) -> None:
    server = MlflowServer(tmp_path, "sqlite:///server.db", str(python))
    server.start()
    try:
        place = Workplace(tmp_path / "place", database=False)
        words = place.training("r2unet", **SMALL, dataset_dir=lungs_like)
        done = place.run(words, check=False, MLFLOW_TRACKING_URI=server.url)
    finally:
        server.kill()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith(f"error: the server at {server.url} is MLflow 2.22.4, and 3.0 or newer is needed")
    assert "run: pip install --upgrade 'mlflow>=3.5'" in said
    assert not (place.root / "models" / "model.pt").exists()
    with sqlite3.connect(tmp_path / "server.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_commands_refuse_an_older_package(python: Path, lungs_like: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    training = place.training("r2unet", **SMALL, dataset_dir=lungs_like)
    for words in (["-m", "pipelines", "compare", "a", "b"], training):
        done = subprocess.run(
            [str(python), *words],
            cwd=REPOSITORY,
            env=place.environment,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode != 0, done.stderr
        assert "MLflow 2.22.4 is installed, and 3.5 or newer is needed; run: pip install" in done.stderr
        assert "Traceback" not in done.stderr
