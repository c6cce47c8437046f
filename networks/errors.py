"""Errors of the networks for the user. They do not derive from `UserError`, as networks import nothing of the project."""

from __future__ import annotations


class NetworkError(ValueError):
    """An argument, an input or a file of weights does not fit the network; the message says why.

    Attributes:
        exit_status: exit status of a command that fails with this error, as in `transforms.errors.UserError`.
    """

    exit_status: int = 2


class WeightsNotFoundError(NetworkError, FileNotFoundError):
    """There is no file where weights were to be read."""
