"""Finding and printing the errors that are meant for the user; `transforms.errors` has their base class."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import cast

from pipelines.utils.anonymity import is_anonymous, told
from pipelines.utils.passwords import hidden
from transforms.errors import UserError

DEBUG = "SEGBUNDLES_DEBUG"


class ConfigError(UserError, ValueError):
    """The config or an override names something that does not exist."""

    impersonal = True


def user_error(error: BaseException | None) -> UserError | None:
    """The first error in the chain of causes that is meant for the user, or None.

    It is recognised by its attribute `exit_status`. The errors of `networks` have it too, although they cannot have
    the base class `UserError`.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if hasattr(error, "exit_status"):
            return cast(UserError, error)
        error = error.__cause__ or error.__context__
    return None


def problem(error: BaseException, where: object) -> str:
    """The message of an error that is meant for the user, or of any other error with the file or case concerned."""
    known = user_error(error)
    if is_anonymous():
        return told(known or error)
    return str(known) if known is not None else f"{where}: {type(error).__name__}: {error}"


def one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of a command: prints an error that is meant for the user as one sentence on stderr."""
    known = user_error(error)
    if issubclass(kind, KeyboardInterrupt) and not os.environ.get(DEBUG):
        # Python still ends with SIGINT afterwards, as a shell expects.
        print("interrupted", file=sys.stderr)
        return
    if known is None or os.environ.get(DEBUG):
        print(traceback_of(error, trace), end="", file=sys.stderr)
        return
    print(f"error: {hidden(told(known))}", file=sys.stderr)


def traceback_of(error: BaseException, trace: TracebackType | None = None) -> str:
    """The traceback of an error without passwords; of an anonymous command without the messages, which may name anyone."""
    if is_anonymous():
        return f"Traceback withheld: {told(error)}\n"
    return hidden("".join(traceback.format_exception(type(error), error, trace or error.__traceback__)))
