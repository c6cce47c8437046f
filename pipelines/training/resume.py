"""Whether a training goes on from what lies in its folder, begins anew, or cannot be meant."""

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
_FOLLOWING_DATA: dict[str, tuple[str | None, str]] = {
    "network_def.in_channels": ("1", "$@data.num_channels"),
    "preprocessing.channels": ("1", "$@data.num_channels"),
    "preprocessing.normalization": ("null", "@normalization"),
    "normalization": (None, "null"),
}
"""What the bundles said of channels when images had one, and what says the same of such images now."""


class ResumeError(UserError, ValueError):
    """The training in the folder is not the one that was asked for; the message says how they differ."""


def resume_mode(value: bool | str) -> str:
    """What the knob `resume` asks for.

    Args:
        value: True goes on where nothing has changed, False or "new" begins anew, "changed" goes on whatever
            has changed.

    Raises:
        ResumeError: it is something else.
    """
    modes = {True: SAME, False: NEW, NEW: NEW, CHANGED: CHANGED}
    if not isinstance(value, (bool, str)) or value not in modes:
        raise ResumeError(
            f"resume is {value!r}; give '$True' to go on where the training stopped, 'new' to begin anew, or "
            "'changed' to go on with other settings"
        )
    return modes[value]


def training_identity(flat: Mapping[str, str], data: str) -> dict[str, str]:
    """What makes a training the one it is: config without `FREE`, data, number of processes.

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
    """One phrase for each setting that is not what it was, those that are knobs first.

    A keyword that one side leaves to its component's default is what the other side says, if that is the default: so
    a config may become shorter under a training that goes on.
    """
    left_out = defaults(now)
    earlier, now = {**left_out, **earlier}, {**left_out, **now}
    said = {n: (earlier.get(n), now.get(n)) for n in {**earlier, **now}}
    names = [n for n, (one, other) in said.items() if one != other and (one, other) != _FOLLOWING_DATA.get(n)]
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
    """Whether the training goes on from a state, or begins anew.

    Args:
        state: of the last checkpoint, see `pipelines.training.checkpoints.Checkpoints.latest`; None without one.
        work: `training_identity` this start.
        epochs: asked for now.
        mode: see `resume_mode`.
        stops: whether early stopping ends a training with this state at once.
        folder: of the checkpoint, for messages.

    Raises:
        ResumeError: the training is unfinished and another one than asked for, or has more epochs behind it.
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
            f"{place} was started with other settings ({'; '.join(changes[:_SHOWN])}{more}): give those to go on "
            "with it, or --resume changed to go on with the new ones, or --resume new to begin anew (its files "
            "move to previous/)"
        )
    if epochs < done or (epochs == done and state["inside"] > 0):
        raise ResumeError(
            f"{place} is past epoch {epochs} already: give more --epochs to go on with it, or --resume new to "
            "begin anew (its files move to previous/)"
        )
    return True


def _short(value: str | None, limit: int = 60) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= limit else f"{value[: limit - 3]}..."


def same_on_all_ranks(work: Mapping[str, str], data: Dataset, patches: Any) -> dict[str, str]:
    """What makes the training the one it is, by rank 0, after all ranks have compared theirs.

    Every host may have a copy of its own of code, config, dataset and patch store. Paths and times of the dataset may
    differ between them, its cases and their content may not: each rank takes every n-th of what it believes to be
    the same list. Called by all ranks together.

    Args:
        work: `pipelines.training.resume.training_identity` this process.
        data: the dataset.
        patches: what patches are drawn from; a `PatchDataset` knows its content.

    Raises:
        DistributedError: they differ; the message says in what.
    """
    if not is_distributed():
        return dict(work)
    told = {name: value for name, value in work.items() if name not in ("dataset_dir", DATA)}
    for split in ("training", "validation"):
        told[f"the {split} cases"] = " ".join(case.id for case in data.cases(split))
    # All processes of a host have the same code and store.
    if local_rank() == 0:
        told[_CODE] = code_version().get("mlflow.source.git.commit", "not known")
        if isinstance(patches, PatchDataset):
            told[_CONTENT] = patches.store.digest()
    shared = told.keys() - {_CODE, _CONTENT}
    everyone = of_all_ranks((dict(work), told))
    for rank, (_, theirs) in enumerate(everyone):
        first = {name: value for name, value in everyone[0][1].items() if name in theirs or name in shared}
        found = differences(first, theirs, ("on rank 0", f"on rank {rank}"))
        if found:
            raise DistributedError(
                f"the processes do not train the same ({'; '.join(found[:8])}): give all hosts the same command, code "
                "and dataset"
            )
    return everyone[0][0]
