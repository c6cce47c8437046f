"""The root folder of a packaged bundle, wherever it is used from."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.utils.call_stack import running_config_folder

__all__ = ["bundle_root"]

_CODE = Path(__file__).resolve().parents[2]


def bundle_root() -> str:
    """The folder above `configs/` of the config that MONAI is evaluating, for expressions in a packaged bundle's JSON.

    MONAI's tools load a bundle from any working directory and tell its config no path. Where a program, such as MONAI
    Deploy's operator, has read the config by itself and evaluates it without `ConfigWorkflow`, no file is known: then it
    is the packaged bundle that this code lies in, and without one the working directory, as in the Model Zoo's bundles.

    Examples:
        >>> bundle_root()
        '.'
    """
    folder = running_config_folder()
    if folder is None:
        return os.fspath(_CODE) if (_CODE / "configs" / "metadata.json").is_file() else "."
    return os.fspath(folder.parent if folder.name == "configs" else folder)
