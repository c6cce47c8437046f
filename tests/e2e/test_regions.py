"""Regions that overlap and voxels that nobody has annotated, from dataset.json to DICOM SEG, as a user types it."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.tiny_model import write_dicom
from tests.pipelines.tumours import IGNORE, REGIONS, nested, write_tumours
from transforms.io.readers import read_header, read_label

TRAINING = SMALL | {
    "spacing": "$None",
    "crop_above": "$None",
    "patch_size": "[16,16,16]",
    "epochs": 4,
    "patches_per_epoch": 32,
    "batch_size": 2,
    "learning_rate": 0.01,
    "val_interval": 2,
}
NETWORK = {"r2unet": {"features": "[8,16,32]"}, "upernet": {"patch_size": "[32,32,32]"}}


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("bundle", ["r2unet", pytest.param("upernet", marks=pytest.mark.slow)])
def test_from_dataset_to_segments(bundle: str, tmp_path: Path) -> None:
    place, data = Workplace(tmp_path), write_tumours(tmp_path / "data")
    said = place.run(["-m", "pipelines", "check", str(data)]).stdout
    assert "refused" not in said.replace("0 refused", ""), said
    place.run(place.training(bundle, dataset_dir=data, **(TRAINING | NETWORK[bundle])))
    (run,) = place.runs(bundle)
    best = {name: run.data.metrics[f"best_val_dice_{name}"] for name in REGIONS}
    assert run.data.metrics["best_val_mean_dice"] == pytest.approx(np.mean(list(best.values())))
    assert min(best["whole tumour"], best["core"]) > 0.5
    card = json.loads((place.root / "models" / "model.json").read_text())
    assert card["regions"] == REGIONS
    assert card["network"]["out_channels"] == len(card["labels"]) == 4

    place.bundle(bundle, "evaluate.json", dataset_dir=data)
    found = rows(place.root / "evaluation" / "metrics.csv")
    assert [row["class"] for row in found] == 2 * list(REGIONS)

    model = ["--bundle", f"bundles/{bundle}", "--model", str(place.root / "models" / "model.pt")]
    out = tmp_path / "out"
    words = ["-m", "pipelines", "predict", str(data), "-o", str(out), "--split", "validation", *model]
    place.run([*words, "--precision", "fp32"])
    for row in rows(out / "metrics.csv"):
        label = np.asarray(nib.load(data / "labelsTr" / f"{row['case']}.nii.gz").dataobj)
        predicted = np.asarray(nib.load(out / f"{row['case']}.nii.gz").dataobj)
        assert set(np.unique(predicted)) <= {0, 1, 2, 3}
        members, counts = REGIONS[row["class"]], label != IGNORE
        wanted = dice(np.isin(predicted, members) & counts, np.isin(label, members) & counts)
        assert float(row["dice"]) == pytest.approx(wanted, abs=1e-6)

    for given in ([], ["--labels", str(data / "dataset.json")]):
        # Either labels.json beside the predictions knows the regions but nothing of "ignore", or the dataset all.
        compared = place.run(
            ["-m", "pipelines", "evaluate", str(out), str(data / "labelsTr"), "--json", *given], check=False
        )
        results = json.loads(compared.stdout)
        assert results["classes"] == list(REGIONS)
        assert bool(results["failed"]) == (not given)
    ours = {(row["case"], row["class"]): float(row["dice"]) for row in rows(out / "metrics.csv")}
    theirs = {(case["case"], name): v for case in results["cases"] for name, v in case["dice"].items()}
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_segments_of_a_series_overlap(tmp_path: Path) -> None:
    """A model with regions predicts a DICOM series; segments and ROIs are the regions, and are read back by them."""
    from tests.pipelines.tiny_model import write_model

    place = Workplace(tmp_path, database=False)
    path = write_model(tmp_path / "model", classes=4)
    card = json.loads(path.with_suffix(".json").read_text())
    names = ["background", "whole tumour without core", "core without enhancing", "enhancing"]
    card |= {"regions": REGIONS, "labels": {str(value): name for value, name in enumerate(names)}}
    path.with_suffix(".json").write_text(json.dumps(card))
    label = nested((14, 12, 10))
    write_dicom(tmp_path / "ct", label)
    words = [
        "-m",
        "pipelines",
        "predict",
        str(tmp_path / "ct"),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(path),
    ]
    words += ["--bundle", "bundles/r2unet", "--format", "nii.gz", "seg", "rtstruct"]
    place.run(words, SEGBUNDLES_NETWORKS="tests.pipelines.tiny_model.Halting")
    assert np.array_equal(read_label(tmp_path / "out" / "ct.nii.gz")[0].numpy(), label)
    report = json.loads((tmp_path / "out" / "ct.json").read_text())
    voxels = {name: int(np.isin(label, members).sum()) for name, members in REGIONS.items()}
    assert {name: found["voxels"] for name, found in report["volumes"].items()} == voxels
    seg = pydicom.dcmread(tmp_path / "out" / "ct.seg.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == list(REGIONS)
    grid = read_header(tmp_path / "ct")
    for name, members in REGIONS.items():
        for ending in ("seg", "rtstruct"):
            mask = read_label(tmp_path / "out" / f"ct.{ending}.dcm", grid, {0: "background", 1: name})
            assert np.array_equal(mask[0].numpy() == 1, np.isin(label, members)), (ending, name)
    for ending in ("seg", "rtstruct"):
        files = [str(tmp_path / "out" / name) for name in (f"ct.{ending}.dcm", "ct.nii.gz")]
        said = place.run(["-m", "pipelines", "evaluate", *files, "--json"])
        assert json.loads(said.stdout)["summary"]["mean"]["dice"] == 1.0
