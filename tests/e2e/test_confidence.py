"""How sure a model is, and what is unlike its training: from a training to the pages, as a user types it."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.e2e.commands import REPOSITORY, Workplace
from tests.pipelines import small


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A dataset, and a model that two epochs on it have made."""
    folder = tmp_path_factory.mktemp("sure")
    small.write_dataset(folder / "data", training=3, validation=3)
    small.run(small.config(folder / "run", folder / "data", epochs=2))
    return Workplace(folder, database=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_prediction_says_how_sure_it_is_and_what_is_unlike(workplace: Workplace, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = nib.load(workplace.folder / "data" / "imagesTr" / "ct4.nii.gz")
    nib.save(source, images / "like.nii.gz")
    coarse = np.asarray(source.dataobj)[:, ::2]
    nib.save(nib.Nifti1Image(coarse, np.diag([1, 2.0, 1, 1])), images / "coarse.nii.gz")
    model = workplace.folder / "run" / "models" / "model.pt"
    words = ["--bundle", "bundles/r2unet", "--model", str(model), "--device", "cpu", "--preview"]
    done = workplace.run(["-m", "pipelines", "predict", str(images), "-o", str(tmp_path / "out"), *words])
    like, unlike = (
        json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("like", "coarse")
    )
    assert like["notices"] == []
    told = "its voxels are 2 mm apart from back to front; the training's were 1 mm"
    assert unlike["notices"] == [
        f"{images / 'coarse.nii.gz'} differs from the training data of the model: {told}"
    ]
    assert (done.stdout + done.stderr).count(told) == 1
    table = {(row["case"], row["class"]): row for row in rows(tmp_path / "out" / "volumes.csv")}
    for name in ("lung", "liver"):
        sure = like["confidence"][name]
        there = like["volumes"][name]["voxels"] > 0
        assert (sure is not None) == there
        if there:
            assert 0 < sure <= 1
            assert float(table["like", name]["confidence"]) == pytest.approx(sure, abs=1e-6)
            assert 0 < like["surface_entropy"][name] < np.log2(3)
    assert any(volume["voxels"] for volume in like["volumes"].values()), "or there is nothing to be sure of"
    page = (tmp_path / "out" / "index.html").read_text()
    assert told in page.replace("&#39;", "'")
    assert "confidence 0." in page


def test_an_evaluation_says_what_the_confidence_is_worth(workplace: Workplace, tmp_path: Path) -> None:
    knobs = {
        "dataset_dir": workplace.folder / "data",
        "model": workplace.folder / "run" / "models" / "model.pt",
        "output_dir": tmp_path / "out",
        "device": "cpu",
    }
    given = [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    config = str(REPOSITORY / "bundles" / "r2unet" / "evaluate.json")
    workplace.run(["-m", "monai.bundle", "run", "--config_file", config, "--track", "False", *given])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]["confidence"]
    table = rows(tmp_path / "out" / "metrics.csv")
    for name in ("lung", "liver"):
        pairs = [
            (float(row["confidence"]), float(row["dice"]))
            for row in table
            if row["class"] == name and row["confidence"]
        ]
        assert found["classes"][name]["n"] == len(pairs)
        if pairs:
            error = np.mean([abs(sure - dice) for sure, dice in pairs])
            assert found["classes"][name]["mean_absolute_error"] == pytest.approx(error, abs=1e-6)
    assert found["mean"]["n"] > 0
    assert "<h2>Confidence and Dice</h2>" in (tmp_path / "out" / "report.html").read_text()
