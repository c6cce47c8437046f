"""Where a bundle's configs are, and where its results go: for commands that take a folder or the name of a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pipelines.utils.installed import ROOT
from transforms.errors import UserError

__all__ = ["Bundle", "BundleError", "find_bundle", "known_bundles"]

_HOME = "bundles"


class BundleError(UserError, ValueError):
    """A folder is not a bundle, or there is none of a name."""


class Bundle(NamedTuple):
    """A bundle.

    Attributes:
        configs: the folder of its JSON files.
        root: its `bundle_root`: the folder of its models and results.
    """

    configs: Path
    root: Path

    @property
    def model(self) -> Path:
        """The trained model that commands use without another one."""
        return self.root / "models" / "model.pt"


def known_bundles() -> list[str]:
    """The names of the bundles that come with this code.

    Examples:
        >>> known_bundles()
        ['r2unet', 'upernet']
    """
    return sorted(path.parent.name for path in (ROOT / _HOME).glob("*/inference.json"))


def find_bundle(given: str | os.PathLike[str], config: str = "inference.json") -> Bundle:
    """The bundle that a command is given.

    Args:
        given: a flat bundle folder, a standard bundle, or the name of one, such as "r2unet" or "bundles/r2unet". A name is
            that of a folder in `bundles/` of the working directory, or else of a bundle that comes with this code: then
            its results go into `bundles/NAME` of the working directory, never beside the code.
        config: a file that it must have.

    Raises:
        BundleError: there is no such bundle.
    """
    folder = Path(given)
    by_name = folder.parent in (Path(), Path(_HOME)) and folder.name not in ("", "..")
    for root in (folder, Path(_HOME, folder.name)) if by_name else (folder,):
        for configs in (root, root / "configs"):
            if (configs / config).is_file():
                return Bundle(configs, root)
    if by_name and (ROOT / _HOME / folder.name / config).is_file():
        return Bundle(ROOT / _HOME / folder.name, Path(_HOME, folder.name))
    names = ", ".join(known_bundles())
    raise BundleError(
        f"{str(given)[:300]} is not a bundle (it has no {config}); give a bundle folder such as --bundle bundles/r2unet"
        + (f", or the name of a bundle: {names}" if names else "")
    )
