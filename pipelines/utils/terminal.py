"""Output of commands for terminals and log files with any encoding, and quoting of words for the shell."""

from __future__ import annotations

import io
import os
import sys


def take_every_character() -> None:
    r"""Make stdout and stderr escape characters that their encoding lacks, such as 右 as \u53f3.

    Otherwise such a character in a name would stop a command with an error if its output goes to a Windows log file
    (cp1252) or uses the C locale. The encoding itself is not changed, because readers of the output expect it.
    """
    for stream in (sys.stdout, sys.stderr):
        # In notebooks the streams have other types; in programs without a console they are None.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quoted(word: str) -> str:
    """A word of a command line, quoted for the shell of this system."""
    # Imported here, since every command imports this module for `take_every_character`.
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline([word])
    import shlex

    return shlex.quote(word)
