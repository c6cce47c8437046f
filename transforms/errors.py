"""What is raised for the user of a command or a bundle, and the exit status that it ends with.

Every error whose message is meant for the user is a `UserError`: a command then prints the message as one sentence
and no traceback. Classes also keep the kind that Python has for them (`ValueError`, `OSError`, ...), for callers from
Python. Mistakes of a programmer are raised as plain errors and keep their traceback.
"""

from __future__ import annotations

DONE, FAILED, USAGE = 0, 1, 2
"""Exit statuses: all is well, a case failed or was refused, the command cannot run as it was given."""


class UserError(Exception):
    """Something that the user can mend; the message says in one sentence what is wrong and what to do.

    Attributes:
        exit_status: that a command ends with.
    """

    exit_status: int = USAGE


class ImageError(UserError, ValueError):
    """An image cannot be read (or written) with certainty.

    The message names the file, says what was found and what to do about it.
    """

    exit_status = FAILED


class SettingError(UserError, ValueError):
    """A knob, an option or an argument has a value that it cannot have, or two of them do not fit together."""
