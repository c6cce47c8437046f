"""What the code needs: one list for the package, for bundles and for served models.

`requirements.txt` beside this file is what `setup.cfg` installs. It travels with the code, so that a bundle or a model
that was written from a copy of the code names the same packages.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

__all__ = ["installed_versions", "pinned_requirements", "required_names"]

_FILE = Path(__file__).with_suffix(".txt")


def required_names() -> list[str]:
    """Names of the packages on PyPI, as `requirements.txt` spells them."""
    return [re.split(r"[^\w.-]", line)[0] for line in _FILE.read_text(encoding="utf-8").splitlines() if line]


def installed_versions() -> dict[str, str | None]:
    """Name to the installed version; None where it is not known, as conda calls some packages otherwise.

    Local versions such as 2.11.0+cpu are cut off: they are not in the default package index.
    """
    versions: dict[str, str | None] = {}
    for name in required_names():
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def pinned_requirements() -> str:
    """The text of a `requirements.txt` with the installed versions."""
    lines = [
        name if version is None else f"{name}=={version}" for name, version in installed_versions().items()
    ]
    return "\n".join(lines) + "\n"
