"""Where this code lies: in its repository or at the root of a bundle, or in a wheel, below `segbundles`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["COMMAND", "PREFIX", "ROOT", "claim_short_names", "name_here", "version_line"]

PREFIX = __name__.removesuffix("pipelines.utils.installed")
"""What precedes the names of our modules here: "segbundles." in a wheel, else nothing."""
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `networks`, `pipelines` and `transforms`, and beside them `bundles`."""
COMMAND = "segbundles" if PREFIX else "python -m pipelines"
"""How a user calls the commands of `pipelines.cli`."""


def name_here(module: str) -> str:
    """The name that a module of ours has here.

    Examples:
        >>> name_here("pipelines.planning.step_process")
        'pipelines.planning.step_process'
    """
    return PREFIX + module


def version_line() -> str:
    """The version of the installed package, and the folder of the code that runs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("segbundles")
    except PackageNotFoundError:
        number = "(not installed)"
    return f"segbundles {number} in {ROOT}"


def claim_short_names() -> None:
    """Let the names in configs mean this code, see `claim` of the package `segbundles`; nothing to do but in a wheel."""
    if PREFIX:
        import importlib

        importlib.import_module(PREFIX.rstrip(".")).claim()
