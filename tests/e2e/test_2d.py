"""2D networks through the command line: on axial slices of volumes, and on pictures."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from tests.e2e.commands import SMALL, Workplace

FLAT = SMALL | {"patch_size": "[32,32]"}
ROUNDS = {"epochs": 4, "patches_per_epoch": 48, "batch_size": 4, "val_interval": 4}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures of bright discs on a dark, noisy ground; no two of one size, as in a folder of photographs."""
    root, random = tmp_path_factory.mktemp("cells"), np.random.default_rng(3)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    entries = []
    for index in range(6):
        width, height = 48 + 3 * index, 61 - 2 * index
        x, y = np.mgrid[:width, :height]
        label = np.zeros((width, height), np.uint8)
        for _ in range(3):
            centre = random.uniform((8, 8), (width - 8, height - 8))
            label[np.hypot(x - centre[0], y - centre[1]) < random.uniform(5, 8)] = 1
        image = np.clip(60 + 120 * label + random.normal(0, 12, label.shape), 0, 255).astype(np.uint8)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            Image.fromarray(array.T).save(root / folder / f"cell_{index}.png")
        entries.append({"image": f"imagesTr/cell_{index}.png", "label": f"labelsTr/cell_{index}.png"})
    labels = {"0": "background", "1": "cell"}
    description = {"name": "cells", "labels": labels, "training": entries[:4], "validation": entries[4:]}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.mark.parametrize("bundle", ["r2unet", pytest.param("upernet", marks=pytest.mark.slow)])
def test_pictures(bundle: str, cells: Path, tmp_path: Path) -> None:
    """From PNG to PNG: no spacing, no HU, so the config's CT settings are switched off."""
    place = Workplace(tmp_path)
    without = {"spacing": "$None", "window": "$None", "crop_above": "$None"}
    place.run(place.training(bundle, dataset_dir=cells, **(FLAT | ROUNDS | without)))
    (run,) = place.runs(bundle)
    assert run.data.metrics["best_val_mean_dice"] > 0.9
    place.bundle(bundle, "evaluate.json", dataset_dir=cells)
    with (place.root / "evaluation" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["case"], row["class"]) for row in rows} == {("cell_4", "cell"), ("cell_5", "cell")}
    place.bundle(bundle, "inference.json", input=cells / "imagesTr", output=tmp_path / "out")
    for path in sorted((cells / "labelsTr").iterdir()):
        found, wanted = np.array(Image.open(tmp_path / "out" / path.name)), np.array(Image.open(path))
        assert found.shape == wanted.shape
        assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.85, path.name


def test_axial_slices_of_volumes(lungs_like: Path, tmp_path: Path) -> None:
    """Two numbers in the patch size make the network 2D; it still labels whole volumes on their own grid."""
    place = Workplace(tmp_path)
    place.run(place.training("r2unet", dataset_dir=lungs_like, **(FLAT | ROUNDS)))
    (run,) = place.runs("r2unet")
    card = json.loads((place.root / "models" / "model.json").read_text())
    assert card["network"]["spatial_dims"] == 2
    assert run.data.metrics["best_val_mean_dice"] > 0.8
    source = lungs_like / "images" / "validation_0.nii.gz"
    place.bundle("r2unet", "inference.json", input=source, output=tmp_path / "out")
    image, labels = nib.load(source), nib.load(tmp_path / "out" / source.name)
    assert labels.shape == image.shape
    assert np.allclose(labels.affine, image.affine)
    wanted = np.asarray(nib.load(lungs_like / "labels" / source.name).dataobj)
    found = np.asarray(labels.dataobj)
    assert 2 * ((found > 0) & (wanted > 0)).sum() / ((found > 0).sum() + (wanted > 0).sum()) > 0.8


def test_photographs_in_colour(shared_data: Path, tmp_path: Path) -> None:
    """Three channels from JPEG to PNG, without a word on how many there are."""
    source = shared_data / "chase"
    listed = json.loads((source / "dataset.json").read_text())
    names = ("training", "training", "training", "validation")
    items = {name: [] for name in names}
    for index, name in enumerate(names):
        entry = listed[name][index if name == "training" else 0]
        items[name].append(entry | {key: str(source / entry[key]) for key in ("image", "label")})
    root = tmp_path / "data"
    root.mkdir()
    named = {key: listed[key] for key in ("labels", "channel_names")}
    (root / "dataset.json").write_text(json.dumps({**named, **items}))
    place = Workplace(tmp_path)
    without = {"spacing": "$None", "window": "$None", "crop_above": "$None"}
    words = {"normalization": "['rgb_to_0_1','red','noNorm']", "features": "[4,8,16]"}
    size = {"patch_size": "[192,192]", "epochs": 2, "patches_per_epoch": 16, "val_interval": 2}
    place.run(place.training("r2unet", dataset_dir=root, **(SMALL | without | words | size)))
    card = json.loads((place.root / "models" / "model.json").read_text())
    assert card["network"]["in_channels"] == 3
    place.bundle("r2unet", "evaluate.json", dataset_dir=root)
    (picture,) = (place.root / "evaluation" / "pictures").iterdir()
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)[100:400]
    assert np.median(pixels[..., 0] - pixels[..., 2]) > 30, "a fundus is red"
    image = Path(items["validation"][0]["image"])
    more = {"preview": "$True", "probabilities": "$True"}
    place.bundle("r2unet", "inference.json", input=image, output=tmp_path / "out", **more)
    require_pixels_measured(
        place, tmp_path / "out" / f"{image.stem}_probabilities.nii.gz", items["validation"][0]
    )
    found = Image.open(tmp_path / "out" / f"{image.stem}.png")
    assert found.size == Image.open(image).size


def require_pixels_measured(place: Workplace, probabilities: Path, item: dict[str, str]) -> None:
    """The pooled AUC is scikit-learn's of the predicted probabilities inside the field of view of the photograph."""
    folder = place.root / "evaluation"
    (pooled,) = json.loads((folder / "metrics.json").read_text())["pooled"].values()
    brightest = np.asarray(Image.open(item["image"])).max(-1).T
    inside = ndimage.binary_fill_holes(brightest > 12)
    vessels = np.asarray(Image.open(item["label"])).T > 0
    wanted = roc_auc_score(vessels[inside], np.asarray(nib.load(probabilities).dataobj)[..., 0, 1][inside])
    # The edge of a field is a matter of taste, and is far from vessels.
    assert pooled["auc"] == pytest.approx(wanted, abs=2e-3)
    assert 0.5 < pooled["auc"] < 1
    assert "cldice" in json.loads((folder / "metrics.json").read_text())["cases"][0]
    run = place.runs("r2unet", "evaluation")[-1]
    (figure,) = (value for name, value in run.data.metrics.items() if name.startswith("pooled_auc_"))
    assert figure == pytest.approx(pooled["auc"])
    assert Image.open(folder / "curves.png").width > 500
    assert "ROC and precision-recall curves" in (folder / "report.html").read_text(encoding="utf-8")
