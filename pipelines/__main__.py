"""`python -m pipelines COMMAND` and `segbundles COMMAND`: training, segmenting, checking and evaluating CT images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pipelines.cli import (
    bundle,
    check,
    compare,
    completion,
    convert,
    crossval,
    evaluate,
    export,
    node,
    plan,
    predict,
    sync,
    train,
)
from pipelines.utils.installed import COMMAND, version_line
from pipelines.utils.terminal import take_every_character
from transforms.errors import FAILED, UserError

# In the order of --help.
COMMANDS = (
    train,
    predict,
    check,
    convert,
    plan,
    crossval,
    evaluate,
    compare,
    sync,
    export,
    node,
    bundle,
    completion,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    take_every_character()
    parser = _parser()
    words, overrides = crossval.without_overrides(sys.argv[1:] if words is None else words)
    arguments, others = parser.parse_known_args(words, argparse.Namespace(overrides=overrides))
    if others and not getattr(arguments, "takes_ids", False):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.overrides += others
    try:
        return arguments.function(arguments, parser)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return report_error(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Train networks that segment CT, segment images, and evaluate the results."
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version, which only who asks for it waits for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: object) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version and where it is")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(version_line())
        parser.exit()


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
