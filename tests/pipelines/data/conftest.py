"""Fixtures of the tests of datasets: small cohorts and their patch store."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.patch_store import PatchStore
from tests.pipelines.cohort import LABELS, make_cases
from tests.pipelines.small import write_ct
from transforms.preprocess import Preprocess


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data #1"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    affine = np.array([[0, -1.2, 0.1, 7], [0.9, 0, 0, 8], [0, 0.1, 2.5, -900], [0, 0, 0, 1]])
    return [write_ct(folder, f"ct{i}", affine=affine) for i in range(3)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cases(tmp_path_factory.mktemp("cohort"), 3)


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    return PatchStore(tmp_path_factory.mktemp("store"), Preprocess(), cohort, LABELS, 0, False).build()
