"""How the errors meant for the user are found and said; `transforms.errors` has their base class."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import cast

from pipelines.utils.passwords import hidden
from transforms.errors import UserError

DEBUG = "SEGBUNDLES_DEBUG"


class ConfigError(UserError, ValueError):
    """The config or an override asks for something that does not exist."""


def user_error(error: BaseException | None) -> UserError | None:
    """The error that the user can mend, in the chain behind what MONAI raised, or None.

    It is known by its `exit_status`, which those of `networks` have too, although they cannot share the base class.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if hasattr(error, "exit_status"):
            return cast(UserError, error)
        error = error.__cause__ or error.__context__
    return None


def problem(error: BaseException, where: object) -> str:
    """What went wrong, in the sentence meant for the user, or else with the file or case that it was about."""
    known = user_error(error)
    return str(known) if known is not None else f"{where}: {type(error).__name__}: {error}"


def one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of a command: an error that the user can mend is one sentence on stderr."""
    known = user_error(error)
    if issubclass(kind, KeyboardInterrupt) and not os.environ.get(DEBUG):
        # Python ends by the signal all the same, which is what a shell looks for.
        print("interrupted", file=sys.stderr)
        return
    if known is None or os.environ.get(DEBUG):
        print(hidden("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
        return
    print(f"error: {hidden(str(known))}", file=sys.stderr)
