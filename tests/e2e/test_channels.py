"""Images of several channels through the command line: one file of four axes, or a file for each channel."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pipelines.inference.case_reports import read_reports
from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.channels import CASES, decathlon, listed, nnunet, voxels

MR = {
    "spacing": "$None",
    "normalization": "['FLAIR','zscore','ZScore','rescale_to_0_1']",
    "window": "$None",
    "crop_above": "$None",
    "patch_size": "[32,32,32]",
    "patches_per_epoch": 24,
    "val_interval": 2,
}


FILES, VOLUME, SEVERAL = "a file for each channel", "one file of four axes", "files named one by one"


@pytest.mark.parametrize(
    ("bundle", "layout", "ways"),
    [
        pytest.param("r2unet", listed, (FILES, VOLUME, SEVERAL), id="r2unet"),
        pytest.param("upernet", decathlon, (FILES,), id="upernet", marks=pytest.mark.slow),
    ],
)
def test_training_and_prediction(bundle: str, layout, ways: tuple[str, ...], tmp_path: Path) -> None:
    """Trained on one layout, a model predicts from the others, and the same from each."""
    place = Workplace(tmp_path)
    network = {"features": "[8,16,32]"} if bundle == "r2unet" else {}
    place.run(place.training(bundle, dataset_dir=layout(tmp_path / "data"), **(SMALL | MR | network)))
    card = json.loads((place.root / "models" / "model.json").read_text())
    assert card["network"]["in_channels"] == card["preprocessing"]["channels"] == 4
    kinds = [each["kind"] for each in card["preprocessing"]["intensity"]["channels"]]
    assert kinds == ["z_score", "z_score", "z_score", "rescale_to_0_1"]
    (run,) = place.runs(bundle)
    assert run.data.metrics["best_val_mean_dice"] > 0.5
    files, four = nnunet(tmp_path / "files"), decathlon(tmp_path / "four")
    inputs = {
        FILES: [files / "imagesTs"],
        VOLUME: [four / "imagesTs"],
        SEVERAL: sorted((files / "imagesTs").iterdir()),
    }
    case, wanted = CASES[-1], voxels(CASES[-1])[1]
    labels = []
    for way in ways:
        out = tmp_path / f"out-{way}"
        words = ["-m", "pipelines", "predict", *map(str, inputs[way]), "--bundle", f"bundles/{bundle}"]
        model = str(place.root / "models" / "model.pt")
        place.run([*words, "--model", model, "-o", str(out), "--preview", "--precision", "fp32"])
        (report,) = read_reports(out).values()
        assert report["case"] == case
        assert len(report["input"].get("channels", [])) == (0 if way == VOLUME else 4)
        labels.append(np.asarray(nib.load(out / f"{case}.nii.gz").dataobj))
        assert np.array_equal(labels[0], labels[-1]), way
    assert 2 * (labels[0] & wanted).sum() / (labels[0].sum() + wanted.sum()) > 0.5


def test_a_file_of_four_axes_is_drawn(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "four")
    place = Workplace(tmp_path, database=False)
    labels = str(root / "labelsTs")
    copied = str(shutil.copytree(labels, tmp_path / "predicted"))
    out = tmp_path / "evaluated"
    place.run(["-m", "pipelines", "evaluate", copied, labels, "-o", str(out), "--images", str(root)])
    pixels = np.asarray(Image.open(out / "pictures" / f"{CASES[-1]}.png"))[80:300]
    assert pixels.max() > 200


def test_check_says_what_is_read(tmp_path: Path) -> None:
    place = Workplace(tmp_path, database=False)
    for layout, kind in ((decathlon, "NIfTI"), (nnunet, "NIfTI, 4 files"), (listed, "NIfTI, 4 files")):
        said = place.run(["-m", "pipelines", "check", str(layout(tmp_path / layout.__name__))]).stdout
        assert said.count(kind) >= 3, said
        assert "notice" not in said, said
