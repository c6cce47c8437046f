"""Whether options that make training faster change its result: a short training with and without each of them.

    python -m benchmarks.parity                      # all switches, three seeds, as long as `make train`
    python -m benchmarks.parity --epochs 12 --spacing "[4,4,10]" --patch_size "[80,80,40]"    # quicker, on a coarser grid
    python -m benchmarks.parity --bundle upernet --switches bf16 augmentation

Each training is the usual command on the demo's CT (`make train` downloads it) in a separate process; its result is
the mean Dice of the validation patient after the last epoch. A switch reverses the bundle's setting. As results differ
between seeds, a switch is harmless if its mean differs from that without the switch by less than the seeds do. The
training labels were made by a model, so the values say nothing about accuracy. Other options are passed unchanged to
every training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Name of a switch: what it changes, and its option on the command line.
SWITCHES: dict[str, list[str]] = {
    "plain": [],
    "bf16": ["--precision", "fp32"],
    "channels-last": ["--channels_last", "$False"],
    "fused-optimiser": ["--optimizer#fused", "$False"],
    "recomputing": ["--network_def#checkpointing", "$True"],
    "compile": ["--compile", "$True"],
    "augmentation": ["--augment_on", "device"],
}


def train(bundle: str, switch: str, seed: int, epochs: int, options: Sequence[str], folder: Path) -> float:
    """Mean Dice of one training."""
    place = folder / f"{switch}_{seed}"
    place.mkdir()
    database = f"sqlite:///{place / 'mlflow.db'}"
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", f"bundles/{bundle}/train.json", "--bundle_root", str(place)]
    command += ["--epochs", str(epochs), "--val_interval", str(epochs), "--seed", str(seed)]
    command += ["--pictures", "0", "--store_dir", str(folder / "store"), *SWITCHES[switch], *options]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": database}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"the training of '{switch}' with seed {seed} failed:\n{done.stderr[-3000:]}")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(database)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (dice,) = [run.data.metrics["val_mean_dice"] for run in runs if "val_mean_dice" in run.data.metrics]
    return dice


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="r2unet")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--switches", nargs="+", choices=SWITCHES, default=[s for s in SWITCHES if s != "compile"]
    )
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side")
    args, options = parser.parse_known_args()
    names = ["plain", *(s for s in args.switches if s != "plain")]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.at_once) as pool:
        place = Path(folder)
        runs = {
            (name, seed): pool.submit(train, args.bundle, name, seed, args.epochs, options, place)
            for name in names
            for seed in args.seeds
        }
        print("| switch turned | " + " | ".join(f"seed {seed}" for seed in args.seeds) + " | mean |")
        print("| --- |" + " ---: |" * (len(args.seeds) + 1), flush=True)
        means = {}
        try:
            for name in names:
                values = [runs[name, seed].result() for seed in args.seeds]
                means[name] = statistics.mean(values)
                print(
                    f"| {name} | " + " | ".join(f"{v:.4f}" for v in values) + f" | {means[name]:.4f} |",
                    flush=True,
                )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # where one failed, the others are not begun
    for name in names[1:]:
        print(
            f"RESULT dice_{args.bundle}_{name} ours={means['plain']:.4f} peer={means[name]:.4f} "
            f"ratio={means['plain'] / means[name]:.4f}"
        )


if __name__ == "__main__":
    main()
