"""The config and the arguments of the current `monai.bundle run`, read from the frames of the call stack.

An expression in a config can only refer to single values. MONAI has no argument or global variable for the whole
config, its overrides, or its files; therefore they are read from the frames, only in this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple


def running_parser() -> ConfigParser | None:
    """The parser that is currently evaluating an expression of its config; None if there is none."""
    owners = (frame.f_locals.get("self") for frame in _callers())
    return next((owner for owner in owners if isinstance(owner, ConfigParser)), None)


def running_command() -> dict[str, Any] | None:
    """The arguments of the current `monai.bundle run`, including those of `--args_file`; None if there is none.

    "config_file" is a path or a list of paths; all other keys are the names of the given options.
    """
    for frame in _callers():
        given = frame.f_locals
        if (
            frame.f_globals.get("__name__") == "monai.bundle.scripts"
            and {"config_file", "override"} <= given.keys()
        ):
            from monai.bundle.scripts import update_kwargs

            return update_kwargs(
                given.get("args_file"), config_file=given["config_file"], **given["override"]
            )
    return None


def running_config_folder() -> Path | None:
    """The folder of the config that is being evaluated, the first one if there are several; None if no file is known.

    A `ConfigWorkflow` knows it, and so do MONAI's commands that export or verify a network.
    """
    for frame in _callers():
        owner, given = frame.f_locals.get("self"), frame.f_locals.get("config_file_")
        if isinstance(owner, ConfigWorkflow):
            return Path(owner.config_root_path)
        if given is not None and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            return Path(ensure_tuple(given)[0]).parent
    return None


def beside_running_config(name: str) -> str:
    """The path of a config beside the one that is being evaluated, for a command that a message advises."""
    return (running_config_folder() or Path("bundles/r2unet")).joinpath(name).as_posix()


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
