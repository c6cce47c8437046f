"""`python -m pipelines COMMAND`: the command line for segmenting, checking and evaluating CT images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pipelines.cli import check, compare, convert, crossval, evaluate, node, plan, predict, sync
from pipelines.utils.terminal import take_every_character
from transforms.errors import FAILED, UserError


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    take_every_character()
    parser = _parser()
    words, overrides = crossval.without_overrides(sys.argv[1:] if words is None else words)
    arguments = parser.parse_args(words, argparse.Namespace(overrides=overrides))
    try:
        return arguments.function(arguments, parser)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return report_error(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines", description="Segment CT images and evaluate the results."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, check, convert, plan, crossval, evaluate, compare, node, sync):
        command.add_parser(commands)
    return parser


def report_error(error: Exception) -> int:
    """Print an error, in one sentence if it is a known one, and return its exit status."""
    # Only what fails waits for these: they take as long as all that --help needs of the project.
    from pipelines.config.errors import DEBUG, traceback_of, user_error
    from pipelines.utils.anonymity import told
    from pipelines.utils.passwords import hidden

    known = user_error(error)
    if known is None and isinstance(error, OSError) and error.strerror:
        # A full disk, a missing permission or a missing file: a traceback would not explain it better.
        known = UserError(
            f"{str(error.filename)[:300]}: {error.strerror}" if error.filename else error.strerror
        )
    if known is None or os.environ.get(DEBUG):
        print(traceback_of(error), end="", file=sys.stderr)
    if known is None:
        return FAILED
    print(f"error: {hidden(told(known))}", file=sys.stderr)
    return known.exit_status


if __name__ == "__main__":
    sys.exit(main())
