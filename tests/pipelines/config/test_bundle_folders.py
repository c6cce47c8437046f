"""Folders and names of bundles: where the configs are found, and where results go."""

import shutil
from pathlib import Path

import pytest

from pipelines.config.bundle_folders import BundleError, find_bundle, known_bundles
from tests.conftest import REPOSITORY

COMES_WITH = REPOSITORY / "bundles" / "r2unet"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_flat_folder_and_a_standard_bundle(elsewhere: Path) -> None:
    assert find_bundle(COMES_WITH) == (COMES_WITH, COMES_WITH)
    shutil.copytree(COMES_WITH, elsewhere / "mine" / "configs", ignore=shutil.ignore_patterns("models"))
    for given in ("mine", elsewhere / "mine"):
        bundle = find_bundle(given)
        assert bundle == (Path(given, "configs"), Path(given))
        assert bundle.model == Path(given, "models", "model.pt")


@pytest.mark.parametrize("given", ["r2unet", "bundles/r2unet", Path("bundles/r2unet/")])
def test_the_results_of_a_name_go_into_the_working_directory(elsewhere: Path, given: str) -> None:
    # Results of an earlier command make no other bundle of it.
    (elsewhere / "bundles" / "r2unet" / "models").mkdir(parents=True)
    assert find_bundle(given) == (COMES_WITH, Path("bundles/r2unet"))


def test_a_bundle_of_the_working_directory_comes_first(elsewhere: Path) -> None:
    shutil.copytree(COMES_WITH, elsewhere / "bundles" / "r2unet", ignore=shutil.ignore_patterns("models"))
    assert find_bundle("r2unet") == (Path("bundles/r2unet"), Path("bundles/r2unet"))


@pytest.mark.parametrize("given", ["absent", "bundles/absent", ".", "..", "/r2unet", "elsewhere/r2unet"])
def test_what_is_no_bundle(elsewhere: Path, given: str) -> None:
    with pytest.raises(
        BundleError, match=r"is not a bundle \(it has no inference\.json\).*: r2unet, upernet"
    ):
        find_bundle(given)


def test_the_config_that_a_command_needs(elsewhere: Path) -> None:
    (elsewhere / "half").mkdir()
    (elsewhere / "half" / "inference.json").write_text("{}", encoding="utf-8")
    assert find_bundle("half").configs == Path("half")
    with pytest.raises(BundleError, match=r"no train\.json"):
        find_bundle("half", "train.json")


def test_the_names_that_come_with_the_code() -> None:
    assert known_bundles() == ["r2unet", "upernet"]
