"""What an installation needs, named alike wherever it is named; `e2e/test_installed.py` is about what is installed."""

import configparser
import json

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.deployment.requirements import required_names
from tests.conftest import REPOSITORY


def required() -> set[str]:
    return {canonicalize_name(name) for name in required_names()}


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate({"python_version": "3.11"})
    }


def test_everything_required_is_pinned() -> None:
    assert required() <= set(pinned())


def test_setup_installs_the_one_list() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    told = setup["options"]["install_requires"]
    assert told == "file: pipelines/deployment/requirements.txt"
    lines = (REPOSITORY / told.removeprefix("file: ")).read_text(encoding="utf-8").split()
    assert [Requirement(line).name for line in lines] == required_names()


@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_a_bundle_tells_the_versions_that_the_tests_ran_with(bundle: str) -> None:
    metadata = json.loads((REPOSITORY / "bundles" / bundle / "metadata.json").read_text(encoding="utf-8"))
    for name, package in (("monai", "monai"), ("pytorch", "torch"), ("numpy", "numpy")):
        assert metadata[f"{name}_version"] == pinned()[package]
