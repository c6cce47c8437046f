"""Decides whether a training is resumed from the checkpoint in its folder, starts new, or is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.config.components import defaults
from pipelines.config.knobs import Knob, knobs_of
from pipelines.data.cases import Dataset
from pipelines.data.patch_dataset import PatchDataset
from pipelines.distributed.collectives import of_all_ranks
from pipelines.distributed.process_group import DistributedError, is_distributed
from pipelines.training.checkpoints import TrainingState
from pipelines.utils.provenance import code_version
from pipelines.utils.ranks import local_rank, world_size
from transforms.errors import UserError

FREE = knobs_of(Knob.RESUMING)
NEW, CHANGED, SAME = "new", "changed", "same"
_CODE, _CONTENT = "the code (git commit)", "the content of the training cases (digest)"
DATA, _PROCESSES = "the files of the dataset (digest)", "the number of processes"
_SHOWN = 8
_SAME_NOW: dict[str, tuple[str | None, str]] = {
    "network_def.in_channels": ("1", "$@data.num_channels"),
    "preprocessing.channels": ("1", "$@data.num_channels"),
    "preprocessing.normalization": ("null", "@normalization"),
    "normalization": (None, "null"),
    "anonymous": (None, "false"),
    "data": (
        "$pipelines.open_dataset(@dataset_dir, fold=@fold, num_folds=@num_folds, seed=@seed)",
        "$pipelines.open_dataset(@dataset_dir, fold=@fold, num_folds=@num_folds, seed=@seed, anonymous=@anonymous)",
    ),
}
"""What the bundles said, of channels when images had one for instance, and what says the same now."""


class ResumeError(UserError, ValueError):
    """The training in the folder is another one than the config describes; the message lists the differences."""


def resume_mode(value: bool | str) -> str:
    """The mode, `SAME`, `NEW` or `CHANGED`, that the setting `resume` asks for.

    Args:
        value: True resumes if no setting has changed; False or "new" starts a new training; "changed" resumes even
            if settings have changed.

    Raises:
        ResumeError: `value` is none of these.
    """
    modes = {True: SAME, False: NEW, NEW: NEW, CHANGED: CHANGED}
    if not isinstance(value, (bool, str)) or value not in modes:
        raise ResumeError(
            f"resume is {value!r}; give '$True' to resume the training, 'new' to start a new one, or 'changed' to "
            "resume it with other settings"
        )
    return modes[value]


def training_identity(flat: Mapping[str, str], data: str) -> dict[str, str]:
    """The settings and data that identify a training: config without `FREE`, dataset, number of processes.

    Args:
        flat: `ExecutedConfig.flat()`.
        data: digest of the dataset.
    """
    kept = {name: value for name, value in flat.items() if name.split(".")[0] not in FREE}
    return {**kept, DATA: data, _PROCESSES: str(world_size())}


def differences(
    earlier: Mapping[str, str],
    now: Mapping[str, str],
    where: tuple[str, str] = ("in the checkpoint", "now"),
) -> list[str]:
    """One phrase for each setting that differs, the top-level settings first.

    A keyword that is missing on one side counts as its component's default, so an unfinished training can also be
    resumed after keywords with default values were removed from its config.
    """
    left_out = defaults(now)
    earlier, now = {**left_out, **earlier}, {**left_out, **now}
    said = {n: (earlier.get(n), now.get(n)) for n in {**earlier, **now}}
    names = [n for n, (one, other) in said.items() if one != other and (one, other) != _SAME_NOW.get(n)]
    names.sort(key=lambda name: ("." in name and " " not in name, name))
    return [
        f"{name if ' ' in name else name.replace('.', '#')}: "
        f"{_short(earlier.get(name))} {where[0]}, {_short(now.get(name))} {where[1]}"
        for name in names
    ]


def can_resume(
    state: TrainingState | None,
    work: Mapping[str, str],
    epochs: int,
    mode: str,
    stops: Callable[[TrainingState], bool],
    folder: str | os.PathLike,
) -> bool:
    """Whether a training is resumed from a state (True) or starts new (False).

    Args:
        state: content of the last checkpoint, see `pipelines.training.checkpoints.Checkpoints.latest`; None without
            a checkpoint.
        work: `training_identity` of this start.
        epochs: number of epochs that the config asks for now.
        mode: see `resume_mode`.
        stops: whether early stopping would end a training with this state at once.
        folder: folder of the checkpoint, for messages.

    Raises:
        ResumeError: the training in the folder is unfinished and has other settings, or has already completed more
            epochs than `epochs`.
    """
    if state is None or mode == NEW:
        return False
    changes = differences(state["work"], work)
    if state["finished"]:
        longer = epochs > state["epochs"] or (state["stopped_early"] and epochs >= state["epochs"])
        return longer and not stops(state) and (not changes or mode == CHANGED)
    done = state["epoch"]
    place = f"the unfinished training in {folder} ({done} of {state['epochs']} epochs done)"
    if changes and mode != CHANGED:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ResumeError(
            f"{place} was started with other settings ({'; '.join(changes[:_SHOWN])}{more}); give the settings of the "
            "checkpoint to resume it, or --resume changed to resume it with the new settings, or --resume new to "
            "start a new training (the earlier files are moved to previous/)"
        )
    if epochs < done or (epochs == done and state["inside"] > 0):
        raise ResumeError(
            f"{place} is already past epoch {epochs}; give more --epochs to resume it, or --resume new to start a "
            "new training (the earlier files are moved to previous/)"
        )
    return True


def _short(value: str | None, limit: int = 60) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= limit else f"{value[: limit - 3]}..."


def same_on_all_ranks(work: Mapping[str, str], data: Dataset, patches: Any) -> dict[str, str]:
    """The training identity of rank 0, after checking that all ranks train the same.

    Each host may have its own copy of code, config, dataset and patch store. Paths and modification times of the
    dataset may differ between hosts, but not its cases and their content, since each rank takes every n-th case of
    its own list. All ranks must call this together.

    Args:
        work: `training_identity` of this process.
        data: the dataset.
        patches: the dataset of patches; the content of a `PatchDataset` is compared too.

    Raises:
        DistributedError: code, settings or data of the ranks differ; the message lists the differences.
    """
    if not is_distributed():
        return dict(work)
    compared = {name: value for name, value in work.items() if name not in ("dataset_dir", DATA)}
    for split in ("training", "validation"):
        compared[f"the {split} cases"] = " ".join(case.id for case in data.cases(split))
    # All processes of a host have the same code and store.
    if local_rank() == 0:
        compared[_CODE] = code_version().get("mlflow.source.git.commit", "not known")
        if isinstance(patches, PatchDataset):
            compared[_CONTENT] = patches.store.digest()
    shared = compared.keys() - {_CODE, _CONTENT}
    of_ranks = of_all_ranks((dict(work), compared))
    for rank, (_, values) in enumerate(of_ranks):
        first = {name: value for name, value in of_ranks[0][1].items() if name in values or name in shared}
        found = differences(first, values, ("on rank 0", f"on rank {rank}"))
        if found:
            raise DistributedError(
                f"the processes do not train the same ({'; '.join(found[:8])}); use the same command, code and "
                "dataset on all hosts"
            )
    return of_ranks[0][0]
