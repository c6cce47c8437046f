"""Fixtures that the tests of several rooms share: a small dataset and a training on it."""

import sys

import pytest

from tests.pipelines import small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """The folder of a training that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    hook = sys.excepthook  # preflight() replaces it
    small.run(small.config(folder, dataset))
    sys.excepthook = hook
    return folder / "models"
