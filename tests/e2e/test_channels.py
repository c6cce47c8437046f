"""Images of several channels through the command line: one file of four axes, or a file for each channel."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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


@pytest.mark.parametrize(("bundle", "layout"), [("r2unet", listed), ("upernet", decathlon)])
def test_training_and_prediction(bundle: str, layout, tmp_path: Path) -> None:
    """Trained on one layout, a model predicts the same from both."""
    place = Workplace(tmp_path)
    network = {"features": "[8,16,32]"} if bundle == "r2unet" else {}
    place.run(place.training(bundle, dataset_dir=layout(tmp_path / "data"), **(SMALL | MR | network)))
    card = json.loads((place.root / "models" / "model.json").read_text())
    assert card["network"]["in_channels"] == card["preprocessing"]["channels"] == 4
    kinds = [each["kind"] for each in card["preprocessing"]["intensity"]["channels"]]
    assert kinds == ["z_score", "z_score", "z_score", "rescale_to_0_1"]
    (run,) = place.runs(bundle)
    assert run.data.metrics["best_val_mean_dice"] > 0.5
    files = nnunet(tmp_path / "files") / "imagesTs"
    inputs = {
        "volume": [decathlon(tmp_path / "four") / "imagesTs"],
        "files": [files],
        "several": sorted(files.iterdir()),
    }
    found = {}
    for name, given in inputs.items():
        out = tmp_path / f"out-{name}"
        words = ["-m", "pipelines", "predict", *map(str, given), "--bundle", f"bundles/{bundle}"]
        model = str(place.root / "models" / "model.pt")
        place.run([*words, "--model", model, "-o", str(out), "--preview", "--precision", "fp32"])
        (report,) = read_reports(out).values()
        assert report["case"] == CASES[-1]
        assert len(report["input"].get("channels", [])) == (0 if name == "volume" else 4)
        found[name] = np.asarray(nib.load(out / f"{CASES[-1]}.nii.gz").dataobj)
    assert np.array_equal(found["volume"], found["files"])
    assert np.array_equal(found["volume"], found["several"])
    wanted = voxels(CASES[-1])[1]
    assert 2 * (found["files"] & wanted).sum() / (found["files"].sum() + wanted.sum()) > 0.5


def test_check_says_what_is_read(tmp_path: Path) -> None:
    place = Workplace(tmp_path, database=False)
    for layout, kind in ((decathlon, "NIfTI"), (nnunet, "NIfTI, 4 files"), (listed, "NIfTI, 4 files")):
        said = place.run(["-m", "pipelines", "check", str(layout(tmp_path / layout.__name__))]).stdout
        assert said.count(kind) >= 3, said
        assert "notice" not in said, said
