"""The plan of a training at its start: made, or the one that an earlier start of the same training has kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pipelines.config.executed import ExecutedConfig, executed_config
from pipelines.config.knobs import AUTO
from pipelines.data.cases import Dataset
from pipelines.distributed.collectives import from_first
from pipelines.planning.knobs import PLANNED
from pipelines.planning.plan_file import PLAN_FILE, asked_of, from_overlay, read_plan, write_plan
from pipelines.planning.planned_config import Wish, overlay_of, plan_for, put_in, wish_of
from pipelines.planning.table import lines
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.initial_weights import network_of
from pipelines.training.resume import NEW, resume_mode
from pipelines.utils.locks import waiting_for

logger = logging.getLogger(__name__)


def apply_plan(folder: str | os.PathLike, resume: bool | str = True) -> None:
    """Give the knobs of the running config that are "auto" the values of a plan; to be called in "initialize".

    A training that goes on keeps its plan, which lies in its folder, and so does the same command given again. The
    folds of a cross-validation share one, which lies beside the patch store: of folds that start at the same time one
    plans, and the others wait for it. Else the dataset is looked at and steps
    are timed on this machine. Called by all ranks together, each of which gets the plan of rank 0.

    Args:
        folder: of the training's checkpoints.
        resume: as `Training` takes it; "new" plans anew.

    Raises:
        PlanError: no plan fits what was given, or a kept one cannot be read.
        DatasetError: the dataset cannot be used.
    """
    config = executed_config()
    _keep_network(config)
    wish = wish_of(config)
    if not wish.open:
        return
    data = config.parser.get_parsed_content("data")
    overlay = from_first(lambda: _overlay(config, wish, data, Path(folder), resume))
    put_in(config.parser, overlay, wish)
    # Headers of a large cohort take a while: they are read once.
    config.parser.ref_resolver.resolved_content["data"] = data


def _keep_network(config: ExecutedConfig) -> None:
    """Give the network of a fine-tuning the sizes of the one that it begins as, where they would be planned."""
    raw = config.parser.get()
    init = raw.get("init")
    if not init:
        return
    for name, value in network_of(config.resolved("init")).items():
        if raw.get(name) == AUTO and name in PLANNED:
            logger.info("%s: %s, as in the model that the weights begin as", name, value)
            raw[name] = value


def _overlay(
    config: ExecutedConfig, wish: Wish, data: Dataset, folder: Path, resume: bool | str
) -> Mapping[str, Any]:
    """The plan that applies, as a config."""
    asked = wish.digest(data, config.raw.get("network_def"))
    store = Path(config.resolved("store_dir"))
    # Folds are one experiment, though each is a training with cases of its own.
    shared = store / "plans" / f"{asked[:32]}.json" if config.resolved("fold") is not None else None
    anew = resume_mode(resume) == NEW
    kept = None if anew else _kept(folder, asked)
    if _has_all(kept, wish):
        logger.info(
            "the settings are those of the plan that this training began with: %s", folder / PLAN_FILE
        )
        return kept
    if shared is None:
        return _made(config, wish, data, store)
    shared.parent.mkdir(parents=True, exist_ok=True)

    def busy() -> None:
        logger.info("waiting for the plan that another fold is making: %s", shared)

    def unlocked(error: OSError) -> None:
        logger.warning("folds that are started at the same time may get plans that differ: %s", error)

    before = _version(shared)
    with waiting_for(shared.with_suffix(".lock"), busy=busy, unlocked=unlocked):
        # A fold that is begun anew takes what another one has planned in the meantime.
        if _version(shared) is not None and (not anew or _version(shared) != before):
            kept = read_plan(shared)
            if _has_all(kept, wish):
                logger.info("the settings are those of the plan that the folds share: %s", shared)
                return kept
        overlay = _made(config, wish, data, store)
        write_plan(shared, overlay)
    return overlay


def _made(config: ExecutedConfig, wish: Wish, data: Dataset, store: Path) -> dict[str, Any]:
    """A new plan as a config; the log says it in words."""
    plan, _ = plan_for(config, wish, data, store)
    for line in lines(plan):
        logger.info("%s", line)
    return overlay_of(config, wish, data, plan)


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file that was replaced from the one before; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _has_all(plan: Mapping[str, Any] | None, wish: Wish) -> TypeGuard[Mapping[str, Any]]:
    return plan is not None and all(name in plan for name in wish.open)


def _kept(folder: Path, asked: str) -> Mapping[str, Any] | None:
    """The plan in the folder of a training, where that goes on or is asked for once more."""
    path = folder / PLAN_FILE
    if not path.is_file():
        return None
    plan = read_plan(path)
    if asked_of(plan) == asked:
        return plan
    state = Checkpoints(folder).latest()
    if state is None or state["finished"]:
        return None
    minutes = from_overlay(plan).minutes
    logger.warning(
        "the unfinished training in %s goes on with its own plan%s; --resume new begins anew with another",
        folder,
        "" if minutes is None else f" of {minutes:.0f} minutes",
    )
    return plan
