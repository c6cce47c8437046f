"""The command `segbundles`, and `python -m segbundles`: the same as `python -m pipelines`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run a command of `sys.argv`; returns its exit status."""
    import segbundles

    try:
        segbundles.claim()
    except segbundles.ForeignNameError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    from segbundles.pipelines.__main__ import main as run
    from segbundles.pipelines.utils.importing import this_is_a_command

    this_is_a_command()
    return run()


if __name__ == "__main__":
    sys.exit(main())
