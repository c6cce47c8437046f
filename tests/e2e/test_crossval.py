"""`python -m pipelines crossval`: two jobs on one folder, then one model of both."""

import json

import nibabel as nib
import pytest

from tests.conftest import make_dataset
from tests.e2e.commands import EVERYWHERE, SMALL, UNPLANNED, UNPLANNED_NETWORK, Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("folds"))
    make_dataset(place.folder / "data", training=2, validation=2, size=32)
    return place


def words(place: Workplace, *options: str, **given: object) -> list[str]:
    values = {**EVERYWHERE, **UNPLANNED, **UNPLANNED_NETWORK["r2unet"], **SMALL}
    values |= {
        "epochs": 1,
        "patches_per_epoch": 2,
        "features": "[4,8]",
        "store_dir": place.folder / "store",
        **given,
    }
    command = ["-m", "pipelines", "crossval", str(place.folder / "data"), "--folds", "2"]
    command += ["-o", str(place.folder / "folds"), *options, "--"]
    return command + [word for name, value in values.items() for word in (f"--{name}", str(value))]


def test_two_jobs_make_one_model(place: Workplace) -> None:
    """Each job runs a fold; whichever ends last makes the ensemble; the command given again does nothing."""
    with (
        place.started(words(place, "--fold", "0"), {}) as first,
        place.started(words(place, "--fold", "1"), {}) as second,
    ):
        assert (first.wait(), second.wait()) == (0, 0)
    file = place.folder / "folds" / "ensemble.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    assert card["members"] == ["fold_0/models/model.pt", "fold_1/models/model.pt"]
    assert set(card["dice"]["before"]) == {"left_lung", "right_lung"}
    assert all(card["dice"]["after"][name] >= value for name, value in card["dice"]["before"].items())
    models = [place.folder / "folds" / member for member in card["members"]]
    before = [model.stat().st_mtime_ns for model in models]
    validated = [
        sorted(p.name for p in (model.parents[1] / "evaluation" / "predictions").iterdir())
        for model in models
    ]
    assert sorted(validated[0] + validated[1]) == [
        "training_0.nii.gz",
        "training_1.nii.gz",
        "validation_0.nii.gz",
        "validation_1.nii.gz",
    ]

    again = place.run(words(place))
    assert "fold 0 is trained already" in again.stderr
    assert "Dice over all folds" in again.stdout
    assert [model.stat().st_mtime_ns for model in models] == before

    (parent,) = place.runs("r2unet", kind="cross-validation")
    assert parent.data.metrics["folds"] == 2
    assert "best_val_mean_dice_std" in parent.data.metrics


def test_predict_takes_the_folder_as_a_model(place: Workplace) -> None:
    file = place.folder / "folds" / "ensemble.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps({**card, "postprocessing": {"largest_component": ["left_lung"]}}), encoding="utf-8"
    )
    image = place.folder / "data" / "images" / "validation_0.nii.gz"
    out = place.folder / "predicted"
    predict = ["-m", "pipelines", "predict", str(image), "-o", str(out), "--bundle", "bundles/r2unet"]
    place.run([*predict, "--model", str(file.parent), "--precision", "fp32"])
    assert nib.load(out / "validation_0.nii.gz").shape == nib.load(image).shape
    report = json.loads((out / "validation_0.json").read_text(encoding="utf-8"))
    assert report["models"] == card["sha256"]
    assert report["settings"]["postprocessing"]["largest_component"] == ["left_lung"]


def test_a_fold_that_fails_is_named(place: Workplace) -> None:
    result = place.run(words(place, "--fold", "0", learning_rate="-1"), check=False)
    assert result.returncode == 1
    assert "error: the training of fold 0 failed with exit status" in result.stderr
    missing = place.run(words(place, "--fold", "7"), check=False)
    assert missing.returncode == 1
    assert "there is no fold 7; the 2 folds are 0 to 1" in missing.stderr
