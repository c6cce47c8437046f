"""The standard MONAI bundle, built from a real training and used with MONAI's own tools from its own root."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import torch

from pipelines.deployment.packaging import package
from tests.e2e.commands import EVERYWHERE, REPOSITORY, SMALL, Workplace


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
