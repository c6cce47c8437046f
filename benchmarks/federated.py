"""Two sites with few cases each: NVFlare's federated model beside that of each site alone, and of all cases in one place.

    python -m benchmarks.federated DATASET --python federated/bin/python

DATASET is a folder such as MSD's hippocampus; `federated/bin/python` has NVFlare (docs/use_a_model.md). The sites get its
first training cases, and all models are measured on its validation cases, which none has seen. Each takes the same
number of steps from the same random weights, by `examples/nvflare/simulate.py` with one site or two, so the federation
computes twice as much in all as a model alone. Values of train.json that fit 1 mm MRs of some 40 voxels are in
`SETTINGS`; others follow as options of train.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.deployment.packaging import assemble

SETTINGS = {
    "spacing": "[1.0,1.0,1.0]",
    "normalization": "zscore",
    "window": "$None",
    "crop_above": "$None",
    "patch_size": "[32,48,32]",
    "features": "[8,16,32]",
    "batch_size": "2",
    "foreground": "0.5",
    "dice_smooth": "1e-5",
    "flip_axes": "[]",
    "overlap": "0.5",
    "mirror_axes": "[]",
    "augmentation": "moderate",
    "learning_rate": "0.004",
    "warmup_steps": "20",
    "schedule": "wsd",
    "ema": "$None",
    "precision": "fp32",
    "num_workers": "0",
}
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "nvflare" / "simulate.py"


def run(words: Sequence[object], folder: Path) -> None:
    """Run a command; ends the program with what it said if it fails."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    line = [str(word) for word in words]
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def write_site(dataset: Path, first: int, count: int, target: Path) -> Path:
    """A dataset folder with some of the training cases of another one, where they are, and none to validate on."""
    content: dict[str, Any] = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    cases = content["training"][first : first + count]
    content["training"] = [
        {key: str((dataset / case[key]).resolve()) for key in ("image", "label")} for case in cases
    ]
    content["validation"] = []
    target.mkdir(parents=True)
    (target / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def package(site: Path, options: Sequence[str], folder: Path) -> Path:
    """A bundle with the settings; its own model, of one step, is not used."""
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    line = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        "bundles/r2unet/train.json",
    ]
    line += ["--bundle_root", str(folder / "trained"), "--store_dir", str(folder / "store")]
    line += ["--dataset_dir", str(site), "--epochs", "1", "--patches_per_epoch", "2", "--val_interval", "0"]
    run([*line, *settings, *options], folder)
    return assemble(Path("bundles/r2unet"), folder / "bundle", folder / "trained" / "models")


def dice(model: Path, dataset: Path, folder: Path) -> float:
    """Mean Dice of a model on the validation cases of a dataset."""
    line = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundles/r2unet/evaluate.json"]
    to = model.parent / "evaluation"
    line += ["--model", str(model), "--dataset_dir", str(dataset), "--output_dir", str(to), "--pictures", "0"]
    line += [
        "--track",
        "$False",
        "--precision",
        "fp32",
        "--surface_tolerance",
        "$None",
        "--confidence",
        "$False",
    ]
    run(line, folder)
    found: float = json.loads((to / "metrics.json").read_text(encoding="utf-8"))["summary"]["mean_dice"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="of an environment with NVFlare")
    parser.add_argument("--cases", type=int, default=8, help="training cases of each site")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-epochs", type=int, default=1)
    parser.add_argument("--patches", type=int, default=40, help="patches of an epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites = [
            write_site(given.dataset, n * given.cases, given.cases, folder / f"site_{n}") for n in (0, 1)
        ]
        everything = write_site(given.dataset, 0, 2 * given.cases, folder / "everything")
        bundle = package(everything, options, folder)
        ways = {"federated": sites, "first": [sites[0]], "second": [sites[1]], "in one place": [everything]}
        found: dict[str, list[float]] = {way: [] for way in ways}
        for seed in given.seeds:
            for way, at in ways.items():
                output = folder / f"{way.replace(' ', '_')}_{seed}"
                line: list[object] = [
                    given.python,
                    SCRIPT,
                    "--bundle",
                    bundle,
                    "--output",
                    output,
                    "--from-scratch",
                ]
                line += [word for site in at for word in ("--site", site)]
                line += ["--rounds", given.rounds, "--local-epochs", given.local_epochs]
                line += ["--set", f"seed={seed}", "--set", f"patches_per_epoch={given.patches}"]
                run(line, folder)
                found[way].append(dice(output / "model.pt", given.dataset, folder))
                print(f"seed {seed}  {way:13} {found[way][-1]:.4f}", flush=True)
    for way, values in found.items():
        print(f"{way:13} {statistics.mean(values):.4f}")


if __name__ == "__main__":
    main()
