"""Dice and HD95 after so many minutes: this project's planned training, and nnU-Net's, on the same cases and processor.

    python -m benchmarks.accuracy.contest DATASET --minutes 15 60 --sides r2unet upernet nnunet \
        --nnunet /path/to/an/environment/bin/python --out DIR

`DATASET` is a labelled folder with a validation list. Each side runs alone, one after another, as its user would run it:
ours by `python -m monai.bundle run training --minutes M` with nothing else given, nnU-Net by its own planning,
preprocessing and trainer (`nnunet_peer`), MONAI's networks by its usual recipes (`monai_peer`). Each number of minutes
is a training of its own with a schedule that ends then. The segmentations of the validation cases are written to files
by each side and measured by `python -m pipelines evaluate`, so that all are judged by the same figures on the files' own
voxel grids. A result that is in `DIR` already is kept: remove its folder to repeat it. `benchmarks.accuracy.paired`
prints the table.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy.nnunet_pictures import write_pictures
from benchmarks.accuracy.running import ROOT, run
from pipelines.data.cases import Dataset
from pipelines.data.dataset_folder import load_dataset
from pipelines.utils.cores import available_cores
from transforms.io.header import PICTURE_SUFFIXES

OURS = ("r2unet", "upernet")
MONAI = ("segresnet", "dynunet")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[15, 30, 60, 120])
    parser.add_argument("--sides", nargs="+", default=[*OURS, "nnunet"], choices=[*OURS, *MONAI, "nnunet"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--nnunet", help="python of an environment with nnunetv2")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if "nnunet" in given.sides and not given.nnunet:
        parser.error("--sides nnunet needs --nnunet PYTHON")
    dataset = load_dataset(given.dataset)
    for seed in given.seeds:
        for minutes in given.minutes:
            for side in given.sides:
                folder = given.out.resolve() / f"{side}_{minutes:g}min_seed{seed}"
                if not (folder / "result.json").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    if side == "nnunet":
                        report = _nnunet(given, dataset, folder, minutes, seed)
                    elif side in MONAI:
                        report = _monai(given, folder, side, minutes, seed)
                    else:
                        report = _ours(given, folder, side, minutes, seed)
                    report |= {"side": side, "seed": seed, "given_minutes": minutes}
                    _judge(given, dataset, folder, report)
                _tell(folder)


def _ours(given: argparse.Namespace, folder: Path, bundle: str, minutes: float, seed: int) -> dict[str, Any]:
    words = ["-m", "monai.bundle", "run", "training", "--config_file", f"bundles/{bundle}/train.json"]
    words += [
        "--dataset_dir",
        str(given.dataset.resolve()),
        "--minutes",
        f"{minutes:g}",
        "--bundle_root",
        str(folder),
    ]
    words += ["--store_dir", str(folder / "store"), "--seed", str(seed)]
    begun = time.perf_counter()
    run(
        [sys.executable, *words],
        folder / "training.log",
        MLFLOW_TRACKING_URI=f"sqlite:///{given.out.resolve()}/mlflow.db",
    )
    ended = time.perf_counter()
    shutil.rmtree(folder / "store")
    words = [
        "-m",
        "pipelines",
        "predict",
        str(given.dataset.resolve() / "dataset.json"),
        "--split",
        "validation",
    ]
    words += ["--bundle", str(ROOT / "bundles" / bundle), "--model", str(folder / "models" / "model.pt")]
    run([sys.executable, *words, "--output", str(folder / "masks")], folder / "predict.log")
    plan = json.loads((folder / "models" / "model.json").read_text(encoding="utf-8"))["plan"]["settings"]
    log = (folder / "training.log").read_text(encoding="utf-8")
    return {
        "minutes": (ended - begun) / 60,
        "minutes_of_prediction": (time.perf_counter() - ended) / 60,
        "plan": {name: setting["value"] for name, setting in plan.items()},
        "curve": [float(dice) for dice in re.findall(r"validation Dice ([0-9.]+)", log)],
    }


def _nnunet(
    given: argparse.Namespace, dataset: Dataset, folder: Path, minutes: float, seed: int
) -> dict[str, Any]:
    raw = given.out.resolve() / "nnunet_raw" / "Dataset001_Contest"
    flat = dataset.training[0].image.suffix in PICTURE_SUFFIXES
    if flat:
        write_pictures(dataset, raw)
    else:
        words = ["-m", "pipelines", "convert", str(given.dataset.resolve()), str(raw), "--to", "nnunet"]
        run([sys.executable, *words], folder / "convert.log")
    words = [str(Path(__file__).with_name("nnunet_peer.py")), "--raw", str(raw), "--minutes", f"{minutes:g}"]
    words += ["--configuration", "2d" if flat else "3d_fullres", "--out", str(folder), "--seed", str(seed)]
    words += ["--threads", str(available_cores())]
    run([given.nnunet, *words], folder / "training.log")
    for name in ("preprocessed", "results"):
        shutil.rmtree(folder / name)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _monai(
    given: argparse.Namespace, folder: Path, network: str, minutes: float, seed: int
) -> dict[str, Any]:
    words = ["-m", "benchmarks.accuracy.monai_peer", str(given.dataset.resolve()), "--network", network]
    words += ["--minutes", f"{minutes:g}", "--out", str(folder), "--seed", str(seed)]
    run([sys.executable, *words], folder / "training.log")
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _judge(given: argparse.Namespace, dataset: Dataset, folder: Path, report: dict[str, Any]) -> None:
    """Measure the files of a side against the labels, and keep it with how they came about."""
    references = folder / "references"
    references.mkdir(exist_ok=True)
    for case in dataset.validation:
        assert case.label is not None
        ending = (
            "".join(case.label.suffixes[-2:]) if case.label.name.endswith(".nii.gz") else case.label.suffix
        )
        (references / f"{case.id}{ending}").symlink_to(case.label.resolve())
    words = ["-m", "pipelines", "evaluate", str(folder / "masks"), str(references), "--json"]
    words += ["--labels", str(given.dataset.resolve() / "dataset.json")]
    shown = subprocess.run(
        [sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8"
    )
    result = {**report, "cases": json.loads(shown.stdout)["cases"]}
    (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def _tell(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    dice = [value for case in result["cases"] for value in case["dice"].values() if value is not None]
    print(f"{folder.name:30} {result['minutes']:6.1f} min  Dice {sum(dice) / len(dice):.4f}", flush=True)


if __name__ == "__main__":
    main()
