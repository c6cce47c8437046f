"""What `monai.bundle run` knows and hands to nobody: its config and its words, looked up among the callers.

An expression in a config gets the values that it references. There is neither an argument nor a global variable of
MONAI by which it could ask for the whole config, its overrides, or the files it came from: hence the walk through
the frames, here and nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser


def running_parser() -> ConfigParser | None:
    """The parser that is evaluating an expression of its config right now; None outside of one."""
    owners = (frame.f_locals.get("self") for frame in _callers())
    return next((owner for owner in owners if isinstance(owner, ConfigParser)), None)


def running_command() -> dict[str, Any] | None:
    """The words that `monai.bundle run` was called with, those of its `--args_file` included; None outside of it.

    "config_file" is a path or a list of them; all else has the name that it was given by.
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


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
