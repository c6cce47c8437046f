"""Environments that hold a client from PyPI and what a packaged bundle names, and nothing of the repository.

docs/use_a_model.md says by which commands; they are read from there.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.e2e.page_commands import run_commands

KEPT = "SEGBUNDLES_CLIENTS"
"""Folder in which environments are kept for the next run, as each fetches gigabytes."""


def client(name: str, folder: Path, packages: list[str]) -> Path:
    """Python of an environment with packages from PyPI and nothing else.

    Args:
        name: of the environment.
        folder: for the environment, unless `KEPT` names another.
        packages: for pip.
    """
    root = Path(os.environ.get(KEPT, folder)) / name
    python = _python(root)
    if not python.exists():
        _call(sys.executable, "-m", "venv", str(root))
        _call(str(python), "-m", "pip", "install", "--quiet", *packages)
    return python


def client_of_page(name: str, commands: str, folder: Path) -> Path:
    """Python of an environment that commands of the page make.

    Args:
        name: of the environment in the commands.
        commands: see `tests.e2e.page_commands`.
        folder: for the environment, unless `KEPT` names another.
    """
    parent = Path(os.environ.get(KEPT, folder)).absolute()
    python = _python(parent / name)
    if not python.exists():
        parent.mkdir(parents=True, exist_ok=True)
        run_commands(commands, parent)
    return python


def _python(environment: Path) -> Path:
    return Path(sysconfig.get_path("scripts", vars={"base": str(environment)})) / "python"


def site_packages(python: Path) -> Path:
    """Where pip installs to."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([str(python), "-c", code], encoding="utf-8").strip())


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        pytest.fail(f"{' '.join(words)}:\n{done.stderr[-4000:]}")
