"""The standard MONAI bundle, built from a real training and used with MONAI's own tools from its own root."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from networks import R2UNet
from pipelines.deployment.mlflow_model import Predictor
from pipelines.deployment.packaging import assemble, package
from pipelines.deployment.requirements import required_names
from pipelines.training.checkpoints import Checkpoints
from tests.e2e.commands import EVERYWHERE, REPOSITORY, SMALL, Workplace
from transforms.preprocess import Preprocess


@pytest.mark.slow
def test_the_standard_bundle_works_alone(lungs_like: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.run(place.training("upernet", dataset_dir=lungs_like, **(SMALL | {"epochs": 1})))
    archive = package(REPOSITORY / "bundles" / "upernet", tmp_path / "dist", place.root / "models")
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        opened.extractall(tmp_path / "elsewhere")
    for name in (
        "configs/metadata.json",
        "configs/inference.json",
        "docs/README.md",
        "LICENSE",
        "models/model.ts",
    ):
        assert f"upernet/{name}" in names
    root = tmp_path / "elsewhere" / "upernet"
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    image = next((lungs_like / "images").iterdir())
    words = [
        "run",
        "--config_file",
        "configs/inference.json",
        "--input",
        str(image),
        "--output",
        str(tmp_path / "out"),
        "--precision",
        EVERYWHERE["precision"],
    ]
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd=root,
        env=place.environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert nib.load(tmp_path / "out" / image.name).shape == nib.load(image).shape
    scripted = torch.jit.load(root / "models" / "model.ts")
    assert scripted(torch.zeros(1, 1, 64, 64, 64)).shape == (1, 3, 64, 64, 64)


def test_a_model_of_two_channels_says_so_and_takes_two_files(tmp_path: Path) -> None:
    """Without a training: a network of arbitrary weights, packed as MLflow keeps it."""
    arguments = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "features": [4, 8]}
    preprocess = Preprocess(channels=2, normalization=["CT", "PET"])
    card = {
        "network": {"_target_": "networks.R2UNet", **arguments},
        "labels": {"0": "background", "1": "tumour"},
        "patch_size": [16, 16, 16],
        "preprocessing": preprocess.parameters(),
    }
    (tmp_path / "models").mkdir()
    Checkpoints(tmp_path / "models").save_model(R2UNet(**arguments).state_dict(), card)
    root = assemble(REPOSITORY / "bundles" / "r2unet", tmp_path / "bundle", tmp_path / "models")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "CT", "1": "channel 1"})
    assert image["modality"] == "any"
    paths = []
    for name in ("ct", "pet"):
        values = np.random.default_rng(0).integers(-1000, 1000, (18, 16, 14)).astype(np.int16)
        paths.append(str(tmp_path / f"{name}.nii"))
        nib.save(nib.Nifti1Image(values, np.eye(4)), paths[-1])
    needed = {*metadata["required_packages_version"], "monai", "torch", "numpy"}
    assert needed == set(required_names())
    assert metadata["numpy_version"] == np.__version__
    assert len((root / "requirements.txt").read_text(encoding="utf-8").splitlines()) == len(needed)
    assert Predictor(root).predict({"image": paths}).shape == (18, 16, 14)


def test_settings_beside_a_model_are_values_and_never_code(tmp_path: Path) -> None:
    """A folder of models may come from a stranger; what MONAI would evaluate stays that of the bundle."""
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [4, 8]}
    card = {
        "network": {"_target_": "networks.R2UNet", **arguments},
        "labels": {"0": "background", "1": "tumour"},
        "patch_size": [16, 16, 16],
        "preprocessing": Preprocess().parameters(),
    }
    evil = "$__import__('os').abort()"
    settings = {
        "epochs": 7,
        "spacing": [1.0, 2.0, 3.0],
        "dataset_dir": "/home/anna/data",
        "window": [evil, 1],
    }
    settings |= {
        "patience": evil,
        "experiment": "@epochs",
        "seed": "%/etc/passwd",
        "optimizer": {"_target_": "os.abort"},
    }
    own = json.loads((REPOSITORY / "bundles" / "r2unet" / "train.json").read_text(encoding="utf-8"))
    models = tmp_path / "models"
    Checkpoints(models, settings | {"nonsense": 1}).save_model(R2UNet(**arguments).state_dict(), card)
    root = assemble(REPOSITORY / "bundles" / "r2unet", tmp_path / "bundle", models)
    config = json.loads((root / "configs" / "train.json").read_text(encoding="utf-8"))
    assert (config["epochs"], config["spacing"]) == (7, [1.0, 2.0, 3.0])
    assert config["network_def"] == card["network"]
    for name in (*(settings.keys() - {"epochs", "spacing"}), "nonsense"):
        assert config.get(name) == own.get(name), name
    # Of another model: they say nothing about this one.
    Checkpoints(models).save_model(R2UNet(**arguments).state_dict(), card)
    other = assemble(REPOSITORY / "bundles" / "r2unet", tmp_path / "other", models)
    assert (
        json.loads((other / "configs" / "train.json").read_text(encoding="utf-8"))["epochs"] == own["epochs"]
    )
