"""What the networks raise for the user; they import nothing of this project, so the class stands on its own."""

from __future__ import annotations


class NetworkError(ValueError):
    """An argument, an input or a file of weights does not fit the network; the message says why.

    Attributes:
        exit_status: that a command ends with, as of `transforms.errors.UserError`.
    """

    exit_status: int = 2


class WeightsNotFoundError(NetworkError, FileNotFoundError):
    """There is no file where weights were to be read."""
