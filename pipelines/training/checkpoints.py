"""Files of a training: checkpoints, from which it can be resumed, and the trained model."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from pipelines.inference.model_card import Card, CardError, read_content
from pipelines.inference.trained_model import (
    BEST,
    CARD,
    SETTINGS,
    CheckpointError,
    _next,
    _require_uncompressed,
    _waiting_card,
    load_tensors,
)
from pipelines.planning.plan_file import PLAN_FILE, write_plan
from pipelines.training.seed import RandomState
from pipelines.training.starts import Starts
from pipelines.training.state_files import EARLIER, LAST, STATES, UNREADABLE, rename_old, state_file
from pipelines.training.trainer_state import TrainerState
from pipelines.utils.locks import Lock, NoLocksError
from transforms.errors import UserError
from transforms.utils.files import (
    link_or_copy,
    put_in_place,
    remove_leftovers,
    replacing,
    sha256_of,
    sync_folder,
    way_out,
)

logger = logging.getLogger(__name__)

FORMAT = 2
_MOVING = ".moving"
KINDS: dict[str, Any] = {
    **{
        "work": dict,
        "finished": bool,
        "stopped_early": bool,
        "best": (int, float),
        "run_id": (str, type(None)),
    },
    **dict.fromkeys(("epochs", "epoch", "epoch_length", "iteration", "inside", "patches"), int),
    **{"history": ("epoch",), "ranks": ("random", "losses")},
}


class RankState(TypedDict):
    """The part of a checkpoint that differs between the processes of a training.

    Attributes:
        random: state of the random number generators of the process.
        losses: losses of its iterations in the current epoch.
    """

    random: RandomState
    losses: torch.Tensor


class Progress(TypedDict):
    """The progress of a training.

    Attributes:
        work: settings and data that identify the training, see `pipelines.training.resume.training_identity`.
        finished: whether the training has ended, after its last epoch or by early stopping.
        stopped_early: whether early stopping ended it.
        best: mean Dice of the validation of the best model; minus infinity before the first validation.
        run_id: id of its MLflow run.
        epochs: number of epochs that the config asks for.
        epoch: number of completed epochs.
        epoch_length: iterations per epoch.
        iteration: number of completed iterations in all epochs.
        inside: number of completed iterations in the current, incomplete epoch.
        patches: number of patches that all processes have used in the current epoch.
        history: metrics of each epoch, with its number as "epoch".
        ranks: one entry per process.
    """

    work: dict[str, str]
    finished: bool
    stopped_early: bool
    best: float
    run_id: str | None
    epochs: int
    epoch: int
    epoch_length: int
    iteration: int
    inside: int
    patches: int
    history: list[dict[str, float]]
    ranks: list[RankState]


class TrainingState(Progress, TrainerState):
    """The content of a checkpoint: everything needed to resume a training."""


class CheckpointNotWrittenError(UserError, RuntimeError):
    """A checkpoint or model file cannot be written; the file before it is unchanged."""


class Checkpoints:
    """Writes and reads the files of one training in one folder.

    - `last.ckpt`: everything needed to resume;
    - `earlier.ckpt`: the checkpoint before `last.ckpt`, used if `last.ckpt` cannot be read;
    - `model.pt`: the weights with the best validation Dice, a plain state dict as MONAI's tools expect;
    - `model.json`: the description needed to use those weights: network, labels, preprocessing, patch size, run;
    - `settings.json`: the settings of the training that `model.pt` is of, with the sha256 of these weights;
    - `plan.json`: the planned settings that the training began with.

    Every file is written atomically and holds only tensors and plain types. A process may be killed between any two
    steps: `repair`, which the next start calls first, completes the steps that were begun.

    Args:
        folder: folder of the files.
        settings: of the training, see `ExecutedConfig.knobs`; None keeps none beside its models.

    Attributes:
        starts: the note that one start leaves for the next.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self._lock = Lock(self.folder / ".lock")
        self.starts = Starts(self._lock)
        self._unreadable = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder for this process; the lock also ends with the process.

        Raises:
            CheckpointError: another training is writing to the folder.
        """
        lock = self._lock
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not lock.take():
                raise CheckpointError(
                    f"another training is writing to {self.folder}; wait until it ends or stop it, or give this "
                    "training another folder with --bundle_root"
                )
        except NoLocksError as error:
            reason = error.strerror or error
            logger.warning(
                "%s cannot be locked (%s); do not start a second training in this folder", self.folder, reason
            )
        except OSError as error:
            raise self._not_written(error) from error
        try:
            yield
        finally:
            lock.release()

    def repair(self) -> None:
        """Complete or remove the unfinished writes of a killed process; call it only within `held`."""
        rename_old(self.folder)
        for name in (LAST, BEST, CARD, _next(Path(BEST)).name, _next(Path(CARD)).name):
            remove_leftovers(self.folder / name)
        model, card = self.folder / BEST, self.folder / CARD
        if _waiting_card(model, card) is not None:
            put_in_place(_next(card), card)
        # The new model.json first: without the new weights it would be taken for the description of the old ones.
        for path in (_next(card), _next(model)):
            path.unlink(missing_ok=True)
        for moving in sorted((self.folder / "previous").glob(f"*{_MOVING}")):
            self._move_to(moving)

    def latest(self) -> TrainingState | None:
        """The state in `last.ckpt`, or with a warning that in `earlier.ckpt`; None if neither file exists.

        Raises:
            CheckpointError: no existing file can be read.
        """
        present = [path for name in (LAST, EARLIER) if (path := state_file(self.folder, name)).is_file()]
        first_error: CheckpointError | None = None
        for path in present:
            try:
                state = load_state(path)
            except CheckpointError as error:
                first_error = first_error or error
                self._unreadable = self._unreadable or path.stem == Path(LAST).stem
                continue
            if first_error is not None:
                logger.warning("%s; the checkpoint before it, %s, is used instead", first_error, path.name)
            return state
        if first_error is not None:
            raise first_error
        return None

    def set_aside(self) -> Path | None:
        """Put the files of an earlier training into `previous/<number>`, so that nothing is overwritten.

        Its model is put there as well, but also stays until the new training has one of its own: whoever predicts with
        the model of this folder always finds one.
        """
        if not self._to_move() and not self._to_keep():
            return None
        parent = self.folder / "previous"
        numbers = [p.name.removesuffix(_MOVING) for p in parent.glob("*")]
        number = 1 + max((int(name) for name in numbers if name.isdigit()), default=0)
        self._unreadable = False
        return self._move_to(parent / f"{number:03d}{_MOVING}")

    def _move_to(self, moving: Path) -> Path:
        """Move the files into `moving`, then rename it; a folder named *.moving is therefore not complete."""
        moving.mkdir(parents=True, exist_ok=True)
        for path in self._to_keep():
            link_or_copy(path, moving / path.name)
        for path in (*self._to_move(), self.folder / PLAN_FILE):
            if path.exists():
                put_in_place(path, moving / path.name)
        target = moving.with_name(moving.name.removesuffix(_MOVING))
        put_in_place(moving, target)
        sync_folder(target.parent)
        return target

    def _to_move(self) -> list[Path]:
        # The checkpoint is moved first: without it no training is resumed, and the next start moves the other files.
        return [p for name in STATES if (p := self.folder / name).exists()]

    def _to_keep(self) -> list[Path]:
        """The model in the folder, unless it was set aside before."""
        if self._is_set_aside():
            return []
        return [path for name in (BEST, CARD, SETTINGS) if (path := self.folder / name).exists()]

    def _is_set_aside(self) -> bool:
        """Whether the model in the folder is that of an earlier training."""
        here = self.folder / CARD
        if not here.is_file():
            return False
        text = here.read_bytes()
        return any(
            card.read_bytes() == text for card in (self.folder / "previous").glob(f"[0-9]*[0-9]/{CARD}")
        )

    def keep_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan that a training begins with, so that every later start of it has the same.

        Raises:
            CheckpointNotWrittenError: the disk is full, or the like.
        """
        with self._writing():
            write_plan(self.folder / PLAN_FILE, plan)

    def save(self, state: TrainingState) -> None:
        """Write a state to `last.ckpt`; the previous `last.ckpt` becomes `earlier.ckpt`.

        Raises:
            CheckpointNotWrittenError: the file cannot be written, for example because the disk is full.
        """
        path = self.folder / LAST
        if self._unreadable:
            # The unreadable last.ckpt must not replace earlier.ckpt, which was read; it is kept as it may be repairable.
            put_in_place(path, self.folder / UNREADABLE)
            self._unreadable = False
        with self._writing(), replacing(path, keep=self.folder / EARLIER) as temporary:
            _write_tensors({"format": FORMAT, **state}, temporary)
        self.starts.has_checkpoint()

    def save_model(self, weights: Mapping[str, torch.Tensor], card: Card) -> Path:
        """Write `model.pt`, and `model.json` with the sha256 of these weights.

        Both are first written completely under other names. From then on `repair` and `TrainedModel` find a
        matching pair, whenever the process ends.

        Raises:
            CheckpointNotWrittenError: the files cannot be written, for example because the disk is full; the
                previous pair is unchanged.
        """
        path = self.folder / BEST
        beside = path.with_suffix(".json")
        try:
            with self._writing():
                with replacing(_next(path)) as temporary:
                    _write_tensors(dict(weights), temporary)
                digest = sha256_of(_next(path))
                text = json.dumps({**card, "sha256": digest}, indent=2) + "\n"
                with replacing(_next(beside)) as temporary:
                    temporary.write_text(text, encoding="utf-8")
        except CheckpointNotWrittenError:
            _next(path).unlink(missing_ok=True)
            raise
        with self._writing():
            put_in_place(_next(path), path)
            put_in_place(_next(beside), beside)
            sync_folder(self.folder)
            if self.settings is not None:
                note = {"sha256": digest, "settings": self.settings}
                with replacing(self.folder / SETTINGS) as temporary:
                    temporary.write_text(json.dumps(note, indent=2, default=str) + "\n", encoding="utf-8")
        return path

    def has_model(self) -> bool:
        """Whether this training has a model: `model.pt` and `model.json` exist, belong together and are not set aside."""
        try:
            return not self._is_set_aside() and sha256_of(self.folder / BEST) == read_content(
                self.folder / CARD
            ).get("sha256")
        except (OSError, CardError):
            return False

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> CheckpointNotWrittenError:
        return CheckpointNotWrittenError(
            f"the training's files cannot be written to {self.folder} ({error.strerror or error}); {way_out(error)}, "
            "then run the same command again to resume from the last checkpoint"
        )


def _write_tensors(value: Any, path: Path) -> None:
    """torch.save that raises the OSError behind a failure, since torch's own error does not name a full disk."""
    try:
        with path.open("wb") as stream:
            torch.save(value, stream)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from error


def load_state(path: str | os.PathLike) -> TrainingState:
    """Load a state that `Checkpoints.save` wrote, after checking its checksums, which torch.load does not check.

    Raises:
        CheckpointError: the file is damaged, or is not a checkpoint of a training.
    """
    try:
        _require_uncompressed(path)
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive can raise more than the documented errors
        raise CheckpointError(f"{path} cannot be read ({error}); restore it or move it away") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged (entry {wrong}); restore it or move it away")
    state = load_tensors(path)
    if not isinstance(state, dict) or "network" not in state or "epoch" not in state:
        raise CheckpointError(f"{path} is not the state of a training; move it away")
    if state.get("format") != FORMAT:
        if state.get("finished"):
            # A finished training is not resumed, so a new one may start.
            ended = {"finished": True, "stopped_early": False, "epochs": sys.maxsize, "work": {}}
            return cast(TrainingState, ended)
        raise CheckpointError(
            f"{path} was written by another version of this program; finish the training with that version, or "
            "start a new training with --resume new"
        )
    for name, kind in KINDS.items():
        if name in state and not _is(state[name], kind):
            raise CheckpointError(
                f"{path} is not the state of a training ({name} has no valid value); move it away"
            )
    return cast(TrainingState, state)


def require_whole(state: TrainingState, folder: str | os.PathLike) -> None:
    """Raise CheckpointError unless a state holds everything needed to resume a training."""
    missing = [name for name in Progress.__annotations__ if name not in state]
    if missing:
        raise CheckpointError(
            f"the checkpoint in {folder} is not the state of a training ({missing[0]} is missing); move it away"
        )


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of a state is of the kind that `KINDS` gives: a type, a non-negative integer, or a list of dicts with certain keys."""
    if kind is int:
        return isinstance(value, int) and 0 <= value <= sys.maxsize
    if isinstance(kind, tuple) and all(isinstance(name, str) for name in kind):
        return isinstance(value, list) and all(isinstance(v, dict) and set(kind) <= set(v) for v in value)
    return isinstance(value, kind)
