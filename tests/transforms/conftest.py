"""Fixtures of the readers' tests."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with a space and a hash in its name."""
    path = tmp_path / "series #1"
    path.mkdir()
    return path
