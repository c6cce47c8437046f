"""A plan against the settings that the bundle had before there were plans, in the same time.

    python -m benchmarks.accuracy.defaults DATASET --seeds 0 1 --out DIR

`DATASET` is a labelled folder with a validation list. The former defaults are those of `bundles/r2unet/demo.json`, chosen
by hand for lung CTs, with the cosine schedule that they had then; of pictures, which they refuse, the third axis and the
window are left out. A training with them comes first and takes what it takes, which is what the planned training is given
as `--minutes`. Each begins with a patch store of its own, but for later seeds, which find that of the first. The figure is
the mean Dice of the validation cases and classes, on the files' own voxel grids, of the model that each keeps. A training
that is in `DIR` already is kept: remove its folder to repeat it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy.running import ROOT, run
from pipelines.data.dataset_folder import load_dataset
from pipelines.inference.model_card import read_card
from pipelines.metrics.summary import summarise
from transforms.io.header import PICTURE_SUFFIXES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    defaults = given.out.resolve() / "defaults.json"
    defaults.write_text(json.dumps(_former(given.dataset)), encoding="utf-8")
    differences = []
    for seed in given.seeds:
        former = _trained(given, f"defaults_seed{seed}", seed, [defaults])
        # The minutes of the first: the others find a filled patch store, which a plan does not count on.
        minutes = _report(given.out / f"defaults_seed{given.seeds[0]}")["minutes"]
        planned = _trained(given, f"plan_seed{seed}", seed, [], "--minutes", f"{minutes:.1f}")
        differences.append(planned - former)
    print(
        f"a plan is better by {statistics.mean(differences):+.4f} in the mean, least {min(differences):+.4f}"
    )


def _former(dataset: Path) -> dict[str, Any]:
    """The former defaults, as an overlay."""
    demo = json.loads((ROOT / "bundles" / "r2unet" / "demo.json").read_text(encoding="utf-8"))
    demo |= {"schedule": "cosine", "ema": 0.99}
    if load_dataset(dataset).training[0].image.suffix not in PICTURE_SUFFIXES:
        return demo
    flat = {"spacing": [1.0, 1.0], "patch_size": demo["patch_size"][:2], "window": None, "crop_above": None}
    return demo | flat


def _trained(given: argparse.Namespace, name: str, seed: int, overlays: list[Path], *more: str) -> float:
    """Train, unless that was done; prints and returns the mean Dice."""
    folder = given.out.resolve() / name
    if not (folder / "report.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        configs = ["bundles/r2unet/train.json", *(path.as_posix() for path in overlays)]
        words = ["-m", "monai.bundle", "run", "training", "--config_file", str(configs), "--seed", str(seed)]
        words += ["--dataset_dir", str(given.dataset.resolve()), "--bundle_root", str(folder), *more]
        words += ["--store_dir", str(given.out.resolve() / f"store_{name.split('_')[0]}"), "--resume", "new"]
        tracking = f"sqlite:///{given.out.resolve()}/mlflow.db"
        begun = time.perf_counter()
        run([sys.executable, *words], folder / "training.log", MLFLOW_TRACKING_URI=tracking)
        minutes = (time.perf_counter() - begun) / 60
        (folder / "report.json").write_text(json.dumps({"minutes": minutes}), encoding="utf-8")
    dice = _dice(folder)
    print(f"{name:20} {_report(folder)['minutes']:6.1f} min  Dice {dice:.4f}", flush=True)
    return dice


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _dice(folder: Path) -> float:
    validation = read_card(folder / "models" / "model.json")["validation"]
    return summarise(validation, list(validation[0]["dice"]))["mean_dice"]


if __name__ == "__main__":
    main()
