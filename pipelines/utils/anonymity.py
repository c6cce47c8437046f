"""What a command does not say with `--anonymous`: paths of its inputs, and whatever a reader says about an image.

Case ids become numbers where cases are listed (`pipelines.data.cases.numbered_id`). What remains are texts: messages about
images name files, UIDs and descriptions in ways that no pattern finds, so they are withheld as a whole; in all others the
paths of the inputs are replaced.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["HIDDEN", "begin", "is_anonymous", "told", "without_places"]

HIDDEN = "***"
REMARK = "a remark on an image is withheld (anonymous)"
_ABOUT_IMAGES = (
    *("transforms", "pipelines.data", "pipelines.inference.loaded_case", "pipelines.planning"),
    *("pydicom", "highdicom", "nibabel", "PIL", "tifffile", "monai.data", "py.warnings"),
)
"""Loggers whose messages are about images."""
_SHORTEST = 2

_plain_record = logging.getLogRecordFactory()
_plain_warning = warnings.showwarning
_anonymous = False
_places: list[str] = []


def begin(anonymous: bool, places: Iterable[Any] = ()) -> None:
    """Let this process, and those that it starts, be anonymous from now on, or not.

    Args:
        anonymous: False ends what an earlier call began.
        places: paths of the inputs; what is no path is ignored.
    """
    global _anonymous
    _anonymous = anonymous
    found: set[str] = set()
    for place in places if anonymous else ():
        for path in place if isinstance(place, (list, tuple)) else [place]:
            if isinstance(path, (str, os.PathLike)) and str(path):
                found |= {os.fspath(path), os.path.abspath(path), os.path.realpath(path)}
    _places[:] = sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True)
    logging.setLogRecordFactory(_record if anonymous else _plain_record)
    warnings.showwarning = _warning if anonymous else _plain_warning  # type: ignore[assignment]


def is_anonymous() -> bool:
    """Whether this process is anonymous."""
    return _anonymous


def without_places(value: Any) -> Any:
    """A text, or a JSON value with texts in it, without the paths of the inputs."""
    if isinstance(value, str):
        for place in _places:
            value = value.replace(place, HIDDEN)
        return value
    if not _places:
        return value
    if isinstance(value, Mapping):
        return {without_places(key): without_places(item) for key, item in value.items()}
    return [without_places(item) for item in value] if isinstance(value, (list, tuple)) else value


def told(error: BaseException) -> str:
    """The message of an error; of one that may name files or patients only its kind where this process is anonymous."""
    if not _anonymous or getattr(error, "impersonal", False):
        return str(without_places(str(error)))
    return (
        f"{type(error).__name__}; the reason may name a patient and is withheld (anonymous): run the same without it to"
        " see it"
    )


def _record(*arguments: Any, **options: Any) -> logging.LogRecord:
    record = _plain_record(*arguments, **options)
    if any(record.name == name or record.name.startswith(f"{name}.") for name in _ABOUT_IMAGES):
        if record.levelno >= logging.WARNING:
            record.msg = REMARK
        else:
            # Nobody misses it, and ten of the same say nothing.
            record.msg, record.levelno, record.levelname = REMARK, logging.DEBUG, "DEBUG"
    else:
        record.msg = without_places(record.getMessage())
    record.args, record.exc_info, record.exc_text = (), None, None
    return record


def _warning(message: Any, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
    print(f"{category.__name__} of {os.path.basename(filename)}: withheld (anonymous)", file=sys.stderr)
