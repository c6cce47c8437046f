"""Fixtures that every test shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CT that is not part of the repository: `SEGBUNDLES_DATA`, or `../shared/data` beside it."""
    path = Path(os.environ.get("SEGBUNDLES_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set SEGBUNDLES_DATA to its folder")
    return path
