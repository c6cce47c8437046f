"""What commands say, whatever characters the terminal or the log file has, and commands that can be copied from there."""

from __future__ import annotations

import io
import os
import sys


def take_every_character() -> None:
    r"""From here on stdout and stderr show a character that their encoding lacks by its number, 右 as \u53f3.

    Otherwise a name in a dataset would end a command whose output goes to a Windows log file (cp1252), or to one in
    the C locale. The encoding stays: it is that of whoever reads.
    """
    for stream in (sys.stdout, sys.stderr):
        # Notebooks and programs without a console have streams of other kinds, or none.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quoted(word: str) -> str:
    """A word of a command line as this system's shell wants it."""
    # Imported here, since every command imports this module for `take_every_character`.
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline([word])
    import shlex

    return shlex.quote(word)
