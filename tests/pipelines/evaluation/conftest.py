"""Fixtures of the tests of evaluations."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from pipelines.data.dataset_folder import load_dataset
from tests.pipelines.small import write_dataset


@pytest.fixture
def uri(template, tmp_path, monkeypatch):
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def data(tmp_path):
    """Three labelled cases; the second prediction is wrong, the third misses a structure."""
    write_dataset(tmp_path / "data", training=1, validation=3)
    found = load_dataset(tmp_path / "data")
    labels = [case.label for case in found.validation]
    wrong = nib.load(labels[1])
    nib.save(nib.Nifti1Image(np.roll(np.asarray(wrong.dataobj), 2, 1), wrong.affine), labels[1])
    more = np.asarray(nib.load(labels[2]).dataobj).copy()
    more[more == 1] = 0
    nib.save(nib.Nifti1Image(more, wrong.affine), labels[2])
    return found
