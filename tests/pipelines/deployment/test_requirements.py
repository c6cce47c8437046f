import importlib.metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.deployment.requirements import installed_versions, pinned_requirements, required_names


def test_every_package_is_installed_here_and_its_version_is_told() -> None:
    told = installed_versions()
    assert list(told) == required_names()
    for name, version in told.items():
        assert version == importlib.metadata.version(name).partition("+")[0]


def test_pip_reads_the_list_with_versions() -> None:
    for line, name in zip(pinned_requirements().splitlines(), required_names(), strict=True):
        asked = Requirement(line)
        assert asked.name == name
        assert asked.specifier.contains(importlib.metadata.version(name).partition("+")[0], prereleases=True)


def test_a_package_of_another_name_is_asked_for_without_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """As conda calls python-gdcm gdcm."""
    version = importlib.metadata.version

    def unknown(name: str) -> str:
        if canonicalize_name(name) == "python-gdcm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert installed_versions()["python-gdcm"] is None
    assert "python-gdcm" in pinned_requirements().splitlines()
