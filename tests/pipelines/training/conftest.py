"""Fixtures of the tests of trainings."""

import sys

import pytest

from tests.pipelines import small
from tests.pipelines.training.stopped import FORMS


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # preflight() replaces it
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(scope="module")
def straight_forms(dataset, tmp_path_factory):
    """Folders of trainings never stopped, by form."""
    folders = {}
    hook = sys.excepthook
    for form, overrides in FORMS.items():
        folder = tmp_path_factory.mktemp("straight")
        small.run(small.config(folder, dataset, val_interval=2, **overrides))
        folders[form] = folder / "models"
    sys.excepthook = hook
    return folders
