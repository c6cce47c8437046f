"""Which errors are meant for the user, and how a command says them."""

from __future__ import annotations

import dis
import os
import sys
import traceback
from types import TracebackType

from pipelines.utils.passwords import hidden

DEBUG = "SEGBUNDLES_DEBUG"
OURS = ("networks", "transforms", "pipelines")


class ConfigError(ValueError):
    """The config or an override asks for something that does not exist."""


def user_error(error: BaseException | None) -> BaseException | None:
    """The error that the user can mend, in the chain behind what MONAI raised, or None.

    Error classes of this project, and ValueErrors that it raises itself, carry a sentence meant for the user.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        module = type(error).__module__
        if module.split(".")[0] in OURS or (type(error) is ValueError and _raised_by_us(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def problem(error: BaseException, where: object) -> str:
    """What went wrong, in the sentence meant for the user, or else with the file or case that it was about."""
    known = user_error(error)
    return str(known) if known is not None else f"{where}: {type(error).__name__}: {error}"


def _raised_by_us(error: BaseException) -> bool:
    """Whether a `raise` of this project made the error, not a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] not in OURS:
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


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
