"""nnU-Net v2 on one dataset for so many minutes: its own planning, preprocessing, training and prediction.

Runs in an environment that has nnunetv2, and imports nothing of this project:

    python benchmarks/accuracy/nnunet_peer.py --raw DIR/Dataset001_Name --minutes 15 --threads 2 --out DIR

The minutes count from the start of its planning to the end of its training, as this project's do. nnU-Net has no
training by time: after planning and preprocessing some of its own steps are timed, and the number of epochs and of
steps in one is set so that its schedule (polynomial, to 0) ends in the time. It trains 1,000 epochs of 250 steps; here
20 epochs, or more of 250 steps, so that its learning rate, which changes once an epoch, still falls smoothly. Its
validation on patches after each epoch keeps its share of an epoch (50 steps for 250). What the time left unused is
printed. The last model predicts the validation cases with its usual settings (half overlap, mirrored passes), outside
of the minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EPOCHS, LONGEST = 20, 250
VALIDATION = 50 / 250
WARM, TIMED = 4, 8
KEPT_BACK = 0.03
"""Of the time left: the steps that are timed vary, and checkpoints are written."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="a folder DatasetXXX_Name in nnU-Net's raw layout"
    )
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    begun = time.perf_counter()
    for name in ("preprocessed", "results"):
        shutil.rmtree(given.out / name, ignore_errors=True)
    os.environ.update(
        nnUNet_raw=str(given.raw.parent),
        nnUNet_preprocessed=str(given.out / "preprocessed"),
        nnUNet_results=str(given.out / "results"),
        nnUNet_n_proc_DA=str(given.threads),
        nnUNet_def_n_proc=str(given.threads),
    )
    _prepare(given)
    prepared = time.perf_counter()
    report = _train(given, begun)
    report["minutes_of_preparing"] = (prepared - begun) / 60
    (given.out / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(json.dumps(report))


def _prepare(given: argparse.Namespace) -> None:
    number = given.raw.name.removeprefix("Dataset").partition("_")[0]
    command = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
    words = [sys.executable, str(command), "-d", number, "-c", given.configuration, "-np", str(given.threads)]
    subprocess.run(words, check=True)
    shutil.copy(given.raw / "splits_final.json", given.out / "preprocessed" / given.raw.name)


def _train(given: argparse.Namespace, begun: float) -> dict[str, Any]:
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # noqa: NPY002 - the state that nnU-Net draws from
    folder = given.out / "preprocessed" / given.raw.name

    def trainer() -> Any:
        plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
        plans["continue_training"] = False
        described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return nnUNetTrainer(plans, given.configuration, 0, described, torch.device("cpu"))

    step, validation_step = _seconds(trainer())
    left = given.minutes * 60 - (time.perf_counter() - begun)
    one = step + VALIDATION * validation_step
    steps = int(left * (1 - KEPT_BACK) / one)
    if steps < 1:
        raise SystemExit(
            f"{given.minutes:g} minutes are too short: preparing took them, and a step takes {step:.1f} s"
        )
    epochs = min(steps, max(EPOCHS, round(steps / LONGEST)))
    timed = trainer()
    timed.num_epochs, timed.num_iterations_per_epoch = epochs, steps // epochs
    timed.num_val_iterations_per_epoch = max(1, round(VALIDATION * timed.num_iterations_per_epoch))
    timed.run_training()
    ended = time.perf_counter()
    timed.perform_actual_validation()
    masks = given.out / "masks"
    shutil.rmtree(masks, ignore_errors=True)
    masks.mkdir()
    for path in sorted(Path(timed.output_folder, "validation").glob(f"*{timed.dataset_json['file_ending']}")):
        shutil.copy(path, masks)
    configuration = timed.configuration_manager
    return {
        "minutes": (ended - begun) / 60,
        "minutes_of_prediction": (time.perf_counter() - ended) / 60,
        "steps": epochs * timed.num_iterations_per_epoch,
        "epochs": epochs,
        "seconds_of_a_step": step,
        "seconds_of_a_validation_step": validation_step,
        "patch_size": list(configuration.patch_size),
        "batch_size": configuration.batch_size,
        "parameters": sum(p.numel() for p in timed.network.parameters()),
    }


def _seconds(trainer: Any) -> tuple[float, float]:
    """Of a training step and of a validation step, means after some that warm up."""
    import torch

    trainer.disable_checkpointing = True
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    times: list[float] = []
    begun = 0.0
    for training, kind, loader in (
        (True, trainer.train_step, trainer.dataloader_train),
        (False, trainer.validation_step, trainer.dataloader_val),
    ):
        with torch.set_grad_enabled(training):
            for index in range(WARM + TIMED):
                if index == WARM:
                    begun = time.perf_counter()
                kind(next(loader))
        times.append((time.perf_counter() - begun) / TIMED)
        if hasattr(loader, "_finish"):
            loader._finish()
    return times[0], times[1]


if __name__ == "__main__":
    main()
