"""`python -m pipelines completion`: commands and options for the Tab key of a shell."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.config.bundle_folders import known_bundles
from transforms.errors import DONE, UserError

SHELLS = ("bash", "zsh", "tcsh")
_FOLDERS, _FILES = ("DIR", "FOLDER", "DESTINATION"), ("FILE", "PATH", "DATASET", "SOURCE", "INPUT")


class CompletionError(UserError, RuntimeError):
    """The package that writes completions is not installed."""


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "completion",
        help="print the completion of commands and options for a shell",
        description="Print a script by which the Tab key completes commands and options of segbundles. For bash: "
        "segbundles completion bash > ~/.local/share/bash-completion/completions/segbundles",
        epilog="exit status: 0 success, 2 an argument is not valid, or shtab is not installed",
    )
    parser.set_defaults(function=run)
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script; returns the exit status."""
    try:
        import shtab
    except ImportError:
        raise CompletionError(
            "completions are written by shtab, which is not installed; run: pip install 'segbundles[completion]'"
        ) from None
    parser.prog = "segbundles"
    _say_what_completes(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, arguments.shell))
    return DONE


def _say_what_completes(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Tell shtab what each option takes, which the names of the values say."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                command.prog = f"segbundles {command.prog.rpartition(' ')[2]}"
                _say_what_completes(command, file, folder)
        name = str(action.metavar).partition("[")[0]
        if name in _FOLDERS + _FILES + ("PREDICTIONS", "REFERENCES"):
            action.complete = folder if name in _FOLDERS else file  # type: ignore[attr-defined]
        elif name in ("BUNDLE", "NAME") and action.choices is None and action.dest in ("bundle", "name"):
            action.choices = known_bundles()
