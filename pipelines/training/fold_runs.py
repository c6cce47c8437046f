"""A cross-validation as commands: a training per fold, the evaluation of each, and the ensemble of all.

Each fold is a process of its own, so that it can have a GPU or a host of its own. Every step looks first whether it is
done, so the same command goes on after any interruption, and several of them (the jobs of an array) work together on one
folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from pipelines.data.dataset_folder import load_dataset, open_dataset
from pipelines.evaluation.postprocess_choice import choose_postprocessing
from pipelines.inference.ensemble_file import ENSEMBLE, EnsembleCard, read_ensemble, write_ensemble
from pipelines.inference.trained_model import BEST
from pipelines.training.checkpoints import Checkpoints
from pipelines.utils.locks import waiting_for
from transforms.errors import FAILED, UserError
from transforms.utils.files import replacing, sha256_of

_DONE = "evaluated.txt"
"""In a fold's folder: SHA-256 of the weights that its evaluation is of."""


class CrossvalidationError(UserError, RuntimeError):
    """A fold failed, or the folds asked for are not those of the dataset."""

    exit_status = FAILED


@dataclass(frozen=True)
class Crossvalidation:
    """The folds of one dataset and config.

    Attributes:
        bundle: folder with train.json and evaluate.json.
        dataset: its folder.
        output: where a folder per fold, and the ensemble, lie.
        folds: how many there are.
        seed: of the dealing of cases to folds.
        overrides: ids of the training's config that are given other values.
    """

    bundle: Path
    dataset: Path
    output: Path
    folds: int
    seed: int
    overrides: Mapping[str, Any]

    def folder(self, fold: int) -> Path:
        """Of a fold; the `bundle_root` of its training."""
        return self.output / f"fold_{fold}"

    def training(self, fold: int) -> list[str]:
        """The command that trains a fold."""
        return self._command("training", "train.json", fold, self.overrides)

    def evaluation(self, fold: int) -> list[str]:
        """The command that evaluates a fold on its own validation cases and keeps the label maps."""
        shared = ("device", "precision", "channels_last", "overlap", "mirror_axes")
        given = {name: value for name, value in self.overrides.items() if name in shared}
        given |= {"split": "validation", "save_predictions": "$True", "track": "$False"}
        return self._command("run", "evaluate.json", fold, given)

    def _command(self, run: str, config: str, fold: int, given: Mapping[str, Any]) -> list[str]:
        values = {
            "bundle_root": self.folder(fold),
            "dataset_dir": self.dataset,
            "fold": fold,
            "num_folds": self.folds,
            "seed": self.seed,
            **given,
        }
        words = [sys.executable, "-m", "monai.bundle", "run", run, "--config_file", str(self.bundle / config)]
        return words + [word for name, value in values.items() for word in (f"--{name}", str(value))]

    def trained(self, fold: int) -> bool:
        """Whether a fold has been trained to the end by this very command."""
        note = self.folder(fold) / "command.json"
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != self.training(fold)[1:]:
            return False
        state = Checkpoints(self.folder(fold) / "models").latest()
        return state is not None and state["finished"]

    def evaluated(self, fold: int) -> bool:
        """Whether the evaluation of a fold is of the model that lies there."""
        note, model = self.folder(fold) / _DONE, self.folder(fold) / "models" / BEST
        return note.is_file() and model.is_file() and note.read_text(encoding="utf-8") == sha256_of(model)

    def run_fold(self, fold: int, environment: Mapping[str, str] | None = None) -> None:
        """Train and evaluate a fold, as far as that is not done.

        Raises:
            CrossvalidationError: a command failed; it has said why itself.
        """
        folder = self.folder(fold)
        folder.mkdir(parents=True, exist_ok=True)
        if self.trained(fold):
            _say(f"fold {fold} is trained already")
        else:
            words = self.training(fold)
            with replacing(folder / "command.json") as temporary:
                temporary.write_text(json.dumps(words[1:]), encoding="utf-8")
            _run(words, f"the training of fold {fold}", environment)
        if not self.evaluated(fold):
            _run(self.evaluation(fold), f"the evaluation of fold {fold}", environment)
            with replacing(folder / _DONE) as temporary:
                temporary.write_text(sha256_of(folder / "models" / BEST), encoding="utf-8")

    def run(self, folds: Sequence[int], devices: Sequence[str] = ()) -> Path | None:
        """Run folds, one after the other or one on each GPU, and make the ensemble once all folds are there.

        Args:
            folds: which.
            devices: ids of GPUs as CUDA_VISIBLE_DEVICES takes them; none runs the folds in turn.

        Returns:
            The description of the ensemble; None while other folds are missing.

        Raises:
            CrossvalidationError: a fold failed; the others have been run.
            DatasetError: the dataset cannot be used.
        """
        wrong = [fold for fold in folds if not 0 <= fold < self.folds]
        if wrong:
            raise CrossvalidationError(
                f"there is no fold {wrong[0]}; the {self.folds} folds are 0 to {self.folds - 1}"
            )
        # What is wrong with the dataset is said once, and before anything is started.
        open_dataset(self.dataset, fold=folds[0], seed=self.seed, num_folds=self.folds)
        free: Queue[str] = Queue()
        for device in devices:
            free.put(device)

        def one(fold: int) -> Exception | None:
            device = free.get() if devices else None
            try:
                self.run_fold(fold, None if device is None else {"CUDA_VISIBLE_DEVICES": device})
            except CrossvalidationError as error:
                return error
            finally:
                if device is not None:
                    free.put(device)
            return None

        with ThreadPoolExecutor(max(1, len(devices))) as pool:
            errors = [error for error in pool.map(one, folds) if error is not None]
        if errors:
            raise CrossvalidationError("; ".join(map(str, errors)))
        missing = [fold for fold in range(self.folds) if not (self.trained(fold) and self.evaluated(fold))]
        if missing:
            _say(f"the folds {', '.join(map(str, missing))} are still missing for the ensemble")
            return None
        with waiting_for(self.output / ".lock"):
            return self._ensemble()

    def _ensemble(self) -> Path:
        """Choose the post-processing on the cases of all folds, and describe the ensemble."""
        models = [self.folder(fold) / "models" / BEST for fold in range(self.folds)]
        digests = [sha256_of(model) for model in models]
        file = self.output / ENSEMBLE
        if file.is_file():
            read_ensemble(file)
            if json.loads(file.read_text(encoding="utf-8"))["sha256"] == digests:
                return file
        pairs = []
        for fold in range(self.folds):
            # Its headers were checked before the first fold.
            data = load_dataset(self.dataset, fold, self.folds, self.seed, check=False)
            predictions = self.folder(fold) / "evaluation" / "predictions"
            pairs += [
                (predictions / f"{c.id}.nii.gz", c.label) for c in data.validation if c.label is not None
            ]
        # The folds differ in who validates, not in what the labels mean.
        choice = choose_postprocessing(pairs, data.labels, data.regions, data.ignore)
        card: EnsembleCard = {
            "members": [model.relative_to(self.output).as_posix() for model in models],
            "sha256": digests,
            "postprocessing": choice.postprocessing,
            "dice": {"before": choice.before, "after": choice.after},
        }
        return write_ensemble(self.output, card)


def _say(text: str) -> None:
    """On stderr, as the commands that run in between say how far they are."""
    print(text, file=sys.stderr, flush=True)


def _run(words: Sequence[str], what: str, environment: Mapping[str, str] | None) -> None:
    result = subprocess.run(words, env={**os.environ, **(environment or {})}, check=False)
    if result.returncode:
        raise CrossvalidationError(f"{what} failed with exit status {result.returncode}, see above")


def summary_of(file: Path) -> str:
    """The ensemble in words, for the end of the command."""
    card: EnsembleCard = json.loads(file.read_text(encoding="utf-8"))
    before, after = card["dice"]["before"], card["dice"]["after"]
    width = max(map(len, before))
    lines = [f"{'class':<{width}}  Dice over all folds"]
    lines += [f"{name:<{width}}  {value:.4f}" for name, value in before.items()]
    if card["postprocessing"]:
        lines.append(f"post-processing that helps: {json.dumps(card['postprocessing'])}")
        lines += [f"{name:<{width}}  {value:.4f}" for name, value in after.items()]
    else:
        lines.append("no post-processing helps")
    return "\n".join(lines)
