"""What each part of a training is worth: one change at a time against the plan, several seeds, paired over the cases.

    python -m benchmarks.accuracy.recipe DATASET --minutes 20 --variants default dropout decay --seeds 0 1 2 --out DIR

`DATASET` is a labelled folder with a validation list. The bundle's plan for these minutes is made once; every variant of
`recipe.json` changes what it says there and keeps the rest, the number of steps included, so that a variant whose steps
take longer trains longer: the table has the minutes beside the Dice. With `_equal_size` the channels are chosen so that
the network has as many weights as the plan's, for the comparison of the paper (arXiv 1802.06955, section IV). With
`_equal_time` the length of the training and what hangs on it (LENGTH below) are planned anew for the same minutes, for
networks of other kinds; `_targets` names the networks that are not this project's, for models to open. Every training is
a run in `DIR/mlflow.db`; one that is in `DIR` already is kept, and so is the plan.

The figure is the mean Dice of the validation cases, on the files' own grids, of the model that a training keeps. The
difference from "default" is that of the cases' means over classes and seeds, with its 95% interval (BCa bootstrap over
the cases); "seeds" is the spread of the seeds' mean Dice (standard deviation), below which a difference means nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.paired import per_case
from benchmarks.accuracy.running import ROOT, run
from pipelines.inference.model_card import read_card
from pipelines.metrics.statistics import paired
from pipelines.planning.step_process import prepared

BASE = "default"
VARIANTS = Path(__file__).with_suffix(".json")
LENGTH = ("epochs", "patches_per_epoch", "learning_rate", "warmup_steps", "schedule", "ema", "val_interval")
_CLASSES = 3
"""Of a network whose weights are counted: the few of its last layer do not matter."""


def main() -> None:
    variants = json.loads(VARIANTS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--bundle", default="r2unet")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--variants", nargs="+", default=[BASE], choices=sorted(variants))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    plan = _plan(given, out)
    found = {}
    for name in dict.fromkeys([BASE, *given.variants]):
        variant = variants[name]
        overlay = _overlay(given, plan, variant)
        found[name] = [_trained(given, out, name, variant, overlay, seed) for seed in given.seeds]
    _tell(found, variants)


def _plan(given: argparse.Namespace, out: Path) -> Path:
    path = out / "plan.json"
    if not path.exists():
        words = ["-m", "pipelines", "plan", str(given.dataset.resolve()), "--bundle", given.bundle]
        words += ["--minutes", f"{given.minutes:g}", "--store_dir", str(out / "store"), "--output", str(path)]
        run([sys.executable, *words], out / "plan.log")
    return path


def _overlay(given: argparse.Namespace, plan: Path, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The plan and a variant as a config that is given after that of the bundle."""
    planned = json.loads(plan.read_text(encoding="utf-8"))
    if variant.get("_equal_time"):
        planned = {key: value for key, value in planned.items() if key not in LENGTH and key[0] != "_"}
        planned["minutes"] = given.minutes
    changes = {key: value for key, value in variant.items() if not key.startswith("_")}
    if "_rate" in variant:
        changes["learning_rate"] = variant["_rate"] * planned["learning_rate"]
    if variant.get("_equal_size"):
        changes["features"] = _features_of_equal_size(given.bundle, planned, changes)
    return planned | changes


def _features_of_equal_size(bundle: str, planned: Mapping[str, Any], overlay: Mapping[str, Any]) -> list[int]:
    """The plan's channels times a factor, with which a variant has as many weights as the plan's network."""
    features = planned["features"]
    wanted = _weights(bundle, planned, {})
    sizes = {
        width: _weights(
            bundle, planned, {**overlay, "features": [f * width // features[0] for f in features]}
        )
        for width in range(max(2, features[0] // 3), 2 * features[0] + 1)
    }
    width = min(sizes, key=lambda width: abs(sizes[width] - wanted))
    return [f * width // features[0] for f in features]


def _weights(bundle: str, planned: Mapping[str, Any], overlay: Mapping[str, Any]) -> int:
    config = json.loads((ROOT / "bundles" / bundle / "train.json").read_text(encoding="utf-8"))
    known = {key: value for key, value in planned.items() if key in config}
    channels = len(planned["normalization"]) if isinstance(planned["normalization"], list) else 1
    parser = prepared(config, {**known, **overlay}, channels, _CLASSES)
    return sum(p.numel() for p in parser.get_parsed_content("network_def").parameters())


def _trained(
    given: argparse.Namespace,
    out: Path,
    name: str,
    variant: Mapping[str, Any],
    overlay: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Train, unless that was done; minutes, weights and cases."""
    folder = out / f"{name}_seed{seed}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    changes = folder / "variant.json"
    changes.write_text(json.dumps(overlay, indent=1), encoding="utf-8")
    configs = [f"bundles/{given.bundle}/train.json", changes.as_posix()]
    words = ["-m", "monai.bundle", "run", "training", "--config_file", str(configs), "--seed", str(seed)]
    words += ["--dataset_dir", str(given.dataset.resolve()), "--bundle_root", str(folder), "--resume", "new"]
    words += [
        "--store_dir",
        str(out / "store"),
        "--experiment",
        "recipe",
        "--run_name",
        f"{name}, seed {seed}",
    ]
    begun = time.perf_counter()
    run(
        [sys.executable, *words],
        folder / "training.log",
        MLFLOW_TRACKING_URI=f"sqlite:///{out / 'mlflow.db'}",
        SEGBUNDLES_NETWORKS=",".join(variant.get("_targets", [])),
    )
    minutes = (time.perf_counter() - begun) / 60
    card = read_card(folder / "models" / "model.json")
    result = {"minutes": minutes, "cases": card["validation"], "network": card["network"]}
    kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"{folder.name:30} {minutes:6.1f} min  Dice {_mean(result):.4f}", flush=True)
    return result


def _mean(result: Mapping[str, Any]) -> float:
    return float(np.nanmean(list(per_case([result], "dice").values())))


def _tell(found: Mapping[str, Sequence[Mapping[str, Any]]], variants: Mapping[str, Any]) -> None:
    print("\n| variant | what | channels | minutes | Dice | seeds | against the plan |")
    print("|---|---|---|---|---|---|---|")
    base = np.array(list(per_case(found[BASE], "dice").values()))
    for name, runs in found.items():
        means = [_mean(result) for result in runs]
        spread = f"{np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
        against = ""
        if name != BASE:
            difference = paired(base, np.array(list(per_case(runs, "dice").values())))
            against = f"{difference.difference:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
        minutes = np.mean([result["minutes"] for result in runs])
        channels = "/".join(map(str, runs[0]["network"].get("features", [])))
        cells = [name, variants[name]["_desc"], channels, f"{minutes:.1f}", f"{np.mean(means):.4f}"]
        print(f"| {' | '.join([*cells, spread, against])} |")


if __name__ == "__main__":
    main()
