"""The root folder of a packaged bundle, wherever it is used from."""

from __future__ import annotations

import os

from pipelines.utils.call_stack import running_config_folder

__all__ = ["bundle_root"]


def bundle_root() -> str:
    """The folder above `configs/` of the config that MONAI is evaluating, for expressions in a packaged bundle's JSON.

    MONAI's tools load a bundle from any working directory and tell its config no path. Where a program has read the
    config by itself and evaluates it without `ConfigWorkflow`, no file is known: then it is the working directory, as in
    the Model Zoo's bundles, and the program gives `bundle_root`.

    Examples:
        >>> bundle_root()
        '.'
    """
    folder = running_config_folder()
    if folder is None:
        return "."
    return os.fspath(folder.parent if folder.name == "configs" else folder)
