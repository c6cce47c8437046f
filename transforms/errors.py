"""Errors whose message is meant for the user, and the exit statuses of commands.

Every error whose message is meant for the user is a `UserError`: a command then prints the message as one sentence
and no traceback. Each class also derives from the matching built-in error (`ValueError`, `OSError`, ...), for callers from
Python. Programming errors are raised as plain errors and keep their traceback.
"""

from __future__ import annotations

DONE, FAILED, USAGE = 0, 1, 2
"""Exit statuses: success; a case failed or was refused; the command cannot run with these arguments."""


class UserError(Exception):
    """An error that the user can correct; the message states in one sentence what is wrong and what to do.

    Attributes:
        exit_status: exit status of a command that fails with this error.
        impersonal: the message names no image, file of one or header of one, so that an anonymous command may show it.
    """

    exit_status: int = USAGE
    impersonal: bool = False


class ImageError(UserError, ValueError):
    """An image cannot be read (or written) with certainty.

    The message names the file, what was found and what to do about it.
    """

    exit_status = FAILED


class SettingError(UserError, ValueError):
    """An option or argument has an invalid value, or two of them contradict each other."""

    impersonal = True
