"""A stranger adds a network, a transform, a metric and a command by the four lists of CONTRIBUTING.md, and nothing else."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.small import write_dataset

LISTS = ("A network", "A transform", "A metric", "A command")

NETWORK = '''
"""Two convolutions."""

import torch
from torch import nn


class PlainNet(nn.Module):
    """Logits (B, classes, *spatial) of images (B, C, *spatial)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, out_channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
'''
TEST_OF_THE_NETWORK = """
import torch

from networks import PlainNet


def test_logits_have_the_shape_of_the_image():
    assert PlainNet(1, 3)(torch.zeros(2, 1, 4, 5, 6)).shape == (2, 3, 4, 5, 6)
"""
TRANSFORM = '''
"""Speckle, as coherent waves leave it in an image."""

from monai.transforms import Randomizable, Transform


class Speckle(Randomizable, Transform):
    """Times a factor for each voxel, normal around 1; keeps a list of what it saw."""

    def __init__(self, deviation: float, seen: str = "") -> None:
        self.deviation, self.seen = deviation, seen

    def __call__(self, item):
        factors = self.R.normal(1, self.deviation, item["image"].shape)
        if self.seen:
            with open(self.seen, "a") as stream:
                stream.write(f"{tuple(item['image'].shape)} {tuple(item['label'].shape)}\\n")
        return {**item, "image": item["image"] * item["image"].new_tensor(factors)}
'''
TEST_OF_THE_TRANSFORM = """
import torch

from transforms.augmentation.speckle import Speckle


def test_the_seed_makes_the_patch():
    item = {"image": torch.ones(1, 5, 5, 5), "label": torch.ones(1, 5, 5, 5)}
    one, two, other = (Speckle(0.5).set_random_state(seed)(item)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
"""
TEST_OF_THE_METRIC = """


def test_the_overlap_coefficient_is_one_for_a_part_of_the_other():
    found = scored([1, 0, 2, 2], [1, 1, 0, 2], ["liver", "cyst"])["overlap_coefficient"]
    assert found == {"liver": 1.0, "cyst": 1.0}
"""
COMMAND = '''
"""`python -m pipelines shape`: how many voxels an image has along each axis."""

from __future__ import annotations

import argparse
from typing import Any

from transforms.errors import DONE


def add_parser(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "shape",
        help="say how many voxels an image has",
        description="Say how many voxels an image has along each axis, from its header.",
        epilog="exit status: 0 all is well, 2 the image cannot be read",
    )
    parser.set_defaults(function=run)
    parser.add_argument("image", metavar="IMAGE")


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from transforms.io.readers import read_header

    print(*read_header(arguments.image).shape)
    return DONE
'''
TEST_OF_THE_COMMAND = """
import nibabel
import numpy

from pipelines.__main__ import main


def test_the_shape_of_an_image(tmp_path, capsys):
    nibabel.save(nibabel.Nifti1Image(numpy.zeros((4, 5, 6), numpy.int16), numpy.eye(4)), tmp_path / "a.nii.gz")
    assert main(["shape", str(tmp_path / "a.nii.gz")]) == 0
    assert capsys.readouterr().out == "4 5 6\\n"
"""


def write(path: Path, text: str) -> None:
    assert not path.exists(), f"{path} is there already"
    path.write_text(text.lstrip("\n"), encoding="utf-8")


def edit(path: Path, before: str, after: str) -> None:
    """Replace the only match of a pattern."""
    text, number = re.subn(before, after, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert number == 1, (
        f"{path} has {number} places like {before!r}; do the lists of CONTRIBUTING.md still hold?"
    )
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with the stranger's work; the numbers are those of the lists."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("networks", "transforms", "pipelines", "bundles", "docs", "tests"):
        shutil.copytree(
            REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "models")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", root)

    # A network: 1 its module, 2 its name, 3 its test. 4 is `trained`.
    write(root / "networks" / "plain.py", NETWORK)
    edit(
        root / "networks" / "__init__.py",
        r"^from \.r2unet import R2UNet$",
        r"from .plain import PlainNet\n\g<0>",
    )
    edit(root / "networks" / "__init__.py", r'^(__all__ = .*?)"R2UNet"', r'\1"PlainNet", "R2UNet"')
    write(root / "tests" / "networks" / "test_plain.py", TEST_OF_THE_NETWORK)

    # A transform: 1 its module, 2 its test, 3 its place in a bundle.
    write(root / "transforms" / "augmentation" / "speckle.py", TRANSFORM)
    write(root / "tests" / "transforms" / "augmentation" / "test_speckle.py", TEST_OF_THE_TRANSFORM)

    bundle = root / "bundles" / "r2unet" / "train.json"
    content = json.loads(bundle.read_text(encoding="utf-8"))
    content["seen"] = ""
    dataset = content["train"]["dataset"]
    speckle = {"_target_": "transforms.augmentation.speckle.Speckle", "deviation": 0.1, "seen": "@seen"}
    dataset["transform"] = {"_target_": "Compose", "transforms": [dataset["transform"], speckle]}
    bundle.write_text(json.dumps(content), encoding="utf-8")

    # A metric: 1 its value, 2 its line, 3 its test.
    metrics = root / "pipelines" / "metrics"
    edit(
        metrics / "overlap.py",
        r'^( +)"precision": (.*)hit / predicted(.*)$',
        r'\g<0>\n\1"overlap_coefficient": \2hit / torch.minimum(reference, predicted)\3',
    )
    edit(
        metrics / "names.py",
        r'^ +"nsd": .*$',
        r'\g<0>\n    "overlap_coefficient": Metric("overlap coefficient"),',
    )
    with (root / "tests" / "pipelines" / "metrics" / "test_overlap.py").open("a", encoding="utf-8") as stream:
        stream.write(TEST_OF_THE_METRIC)

    # A command: 1 its module, 2 its name; 3 the work is in `transforms.io`; 4 its test.
    main = root / "pipelines" / "__main__.py"
    write(root / "pipelines" / "cli" / "shape.py", COMMAND)
    edit(main, r"^from pipelines\.cli import \($", r"\g<0>\n    shape,")
    edit(main, r"^COMMANDS = \($", r"\g<0>\n    shape,")
    write(root / "tests" / "e2e" / "test_shape.py", TEST_OF_THE_COMMAND)
    edit(
        root / "tests" / "test_layout.py",
        r'^    "pipelines\.cli\.sync": .*$',
        r'\g<0>\n    "pipelines.cli.shape": "e2e/test_shape.py",',
    )
    return root


def python(root: Path, *words: object, **environment: str) -> str:
    """What `python WORDS` says in the copy."""
    variables = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, cwd=root, env=variables, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout


@pytest.fixture(scope="module")
def trained(copy, lungs_like, tmp_path_factory) -> Path:
    """The folder of a training of the stranger's network, with the stranger's transform, for one step."""
    place = Workplace(tmp_path_factory.mktemp("trained"))
    small = {**SMALL, "epochs": 1, "patches_per_epoch": 1, "dataset_dir": lungs_like}
    network = {"_target_": "networks.PlainNet", "in_channels": 1, "out_channels": "$@data.num_classes"}
    words = place.training(
        "r2unet", **small, network_def=network, features="auto", seen=place.folder / "seen"
    )
    python(copy, *words, MLFLOW_TRACKING_URI=place.uri)
    return place.folder


def test_the_network_was_trained_and_its_model_opens(copy, trained):
    model = trained / "bundle" / "models" / "model.pt"
    card = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["network"]["_target_"] == "networks.PlainNet"
    said = python(
        copy,
        "-c",
        f"import pipelines; print(type(pipelines.TrainedModel({str(model)!r}).network).__module__)",
    )
    assert said.strip() == "networks.plain"


def test_the_transform_augmented_the_patch(trained):
    assert (trained / "seen").read_text() == "(1, 32, 32, 32) (1, 32, 32, 32)\n"


def test_the_metric_is_in_every_result(copy, tmp_path):
    data = write_dataset(tmp_path / "data", training=2, validation=0)
    out = tmp_path / "out"
    labels = data / "labelsTr"
    said = python(copy, "-m", "pipelines", "evaluate", labels, labels, "-o", out, "--json")
    assert json.loads(said)["summary"]["mean"]["overlap_coefficient"] == 1.0
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["overlap_coefficient"] for row in csv.DictReader(stream)} <= {"1.000000", ""}
    assert "overlap coefficient" in (out / "report.html").read_text(encoding="utf-8")
    assert "overlap_coefficient" in python(copy, "-m", "pipelines", "compare", "--help")


def test_the_command_is_among_the_others(copy, lungs_like):
    assert "say how many voxels an image has" in python(copy, "-m", "pipelines", "--help")
    image = lungs_like / "images" / "training_0.nii.gz"
    assert python(copy, "-m", "pipelines", "shape", image) == "48 48 48\n"


def test_the_tests_of_the_copy_pass(copy):
    """The rules of the house too: every module is tested, and imports what it may."""
    files = ["test_layout.py", "e2e/test_shape.py", "networks/test_plain.py"]
    files += ["transforms/augmentation/test_speckle.py"]
    files += ["pipelines/metrics/test_overlap.py", "pipelines/metrics/test_result_files.py"]
    said = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in files))
    assert " passed" in said


def test_the_lists_are_short_and_what_they_name_is_there():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in LISTS:
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL).group(1)
        steps = re.findall(r"^(\d)\. ", section, re.MULTILINE)
        assert 1 <= len(steps) <= 6
        assert steps == [str(number) for number in range(1, len(steps) + 1)]
    for path in re.findall(
        r"`((?:networks|transforms|pipelines|bundles|tests|docs|benchmarks)/[^`*<]*)`", text
    ):
        assert (REPOSITORY / path).exists(), path
