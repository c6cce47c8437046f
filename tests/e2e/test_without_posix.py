"""A training and a prediction where Python has nothing of POSIX: no fcntl, no fork, no locks, few signals."""

import os
from pathlib import Path

import pytest

from pipelines.planning.fingerprint import FOLDER
from pipelines.utils.file_names import is_device
from tests.e2e.commands import REPOSITORY, SMALL, Workplace
from tests.pipelines.small import write_dataset
from tests.test_portability import WITHOUT_POSIX


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_training_ends_well(tmp_path: Path, workers: int) -> None:
    data, place = write_dataset(tmp_path / "data", training=4, validation=2), Workplace(tmp_path)
    place.environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(WITHOUT_POSIX)])
    # Windows always has it; without pwd nothing else says who it is.
    place.environment["USERNAME"] = "somebody"
    small = SMALL | {"epochs": 1, "patches_per_epoch": 2, "patch_size": "[16,16,16]", "spacing": "[1,1,1]"}
    result = place.run(place.training("r2unet", dataset_dir=data, **small | {"num_workers": workers}))
    (run,) = place.runs("r2unet")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.user"] == "somebody"
    assert "preprocessing 4 of 4 cases" in result.stdout
    assert "cannot be locked (this system has no locks on files): building without a lock" in result.stdout
    assert "do not start a second training in this folder" in result.stdout
    (entries,) = [folder for folder in (tmp_path / "store").iterdir() if folder.name != FOLDER]
    assert len([entry for entry in entries.iterdir() if entry.is_dir()]) == 6

    out = tmp_path / "out"
    predict = ("predict", data, "-o", out, "--bundle", "bundles/r2unet", "--precision", "fp32")
    place.run(["-m", "pipelines", *map(str, predict), "--model", str(place.root / "models" / "model.pt")])
    assert len(list(out.glob("*.nii.gz"))) == 6

    names = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
    assert len(names) > 50
    for name in names:
        assert not set(name) & set('<>:"|?*\\'), name
        assert name == name.rstrip(" ."), name
        assert not is_device(name), name
