"""What a command loads before it does something: seconds that every call of it costs."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Each takes between a tenth of a second and five seconds to import.
HEAVY = {
    "torch",
    "monai",
    "ignite",
    "mlflow",
    "pandas",
    "sklearn",
    "matplotlib",
    "SimpleITK",
    "highdicom",
    "blosc2",
}
READING = {"numpy", "scipy", "skimage", "nibabel", "pydicom", "PIL"}
# Of Python itself: loaded for --help, they were nearly half of what it took beyond the start of Python.
WORKING = {"traceback", "logging", "json", "subprocess"}


def imported(*words: str) -> tuple[set[str], int, str]:
    """Top-level packages that `python WORDS` imports, its exit status and what it prints."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    lines = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert lines, done.stderr
    return {line[-1].strip().partition(".")[0] for line in lines}, done.returncode, done.stdout + done.stderr


COMMANDS = ("predict", "check", "convert", "plan", "crossval", "evaluate", "compare", "sync", "node")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_loads_nothing(command):
    found, status, said = imported("-m", "pipelines", *command, "--help")
    assert status == 0
    assert "usage: python -m pipelines" in said
    at_start, _, _ = imported("-c", "pass")  # by what is installed beside us
    assert not found & (HEAVY | READING | WORKING - at_start)


def test_mistakes_in_paths_are_told_before_anything_is_loaded(tmp_path):
    words = ("predict", str(tmp_path / "absent"), "-o", str(tmp_path), "--bundle", "bundles/r2unet")
    found, status, said = imported("-m", "pipelines", *words)
    assert status == 2
    assert "does not exist" in said
    assert not found & (HEAVY | READING)


@pytest.mark.parametrize(
    "package", ["pipelines", "transforms", "pipelines.tracking.run", "pipelines.data.demo"]
)
def test_packages_load_no_more_than_they_need(package):
    found, status, said = imported("-c", f"import {package}")
    assert status == 0, said
    assert not found & HEAVY


def test_check_reads_a_dataset_without_torch_and_monai(tmp_path):
    values = np.zeros((8, 9, 10), np.int16)
    values[2:5] = 1
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / folder / f"{case}.nii.gz")
    names = ("a", "b")
    described = {
        "labels": {"0": "background", "1": "lung"},
        "training": [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    found, status, said = imported("-m", "pipelines", "check", str(tmp_path))
    assert status == 0, said
    assert "lung" in said
    assert not found & HEAVY


def test_a_training_loads_nothing_that_only_other_work_needs():
    work = "import pipelines.config.executed, pipelines.training.workflow, pipelines.training.losses, networks, transforms.augmentation.patch_augmentation"
    found, status, said = imported("-c", f"import torch, monai.bundle\n{work}")  # MONAI itself loads much
    assert status == 0, said
    assert not found & {"SimpleITK", "highdicom", "sqlalchemy", "alembic"}
