"""segbundles: CT segmentation with R2U-Net and UPerNet as MONAI bundles.

In the repository, and at the root of a packaged bundle, the packages are called `networks`, `pipelines` and `transforms`,
and so do the JSON files name them. Other projects on PyPI have packages of these names. A wheel therefore installs them
as `segbundles.networks`, `segbundles.pipelines` and `segbundles.transforms`, and a finder gives each module its second
name: in a wheel the short one, in an editable installation the long one. Both are one module, imported once.

A short name is only given where nobody else has it. `claim` takes it for this process where a bundle of ours is run.

This file is run at each start of Python in an environment that has the wheel (`segbundles.pth`), and so loads nothing.
"""

from __future__ import annotations

import os
import sys

# typing would take longer than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

__all__ = ["ForeignNameError", "claim"]

NAMES = ("networks", "pipelines", "transforms")
# Tools that look at every file of the repository import this one by its path.
_NAME = "segbundles"
_HERE = os.path.dirname(os.path.abspath(__file__))
IN_WHEEL = os.path.isdir(os.path.join(_HERE, "pipelines"))
# Of the second names, by which modules are found here.
_SECOND = NAMES if IN_WHEEL else tuple(f"{_NAME}.{name}" for name in NAMES)


class ForeignNameError(ImportError):
    """A short name belongs to a package of another project.

    Attributes:
        exit_status: exit status of a command that fails with this error, as in `transforms.errors.UserError`.
    """

    exit_status = 2


class _SecondNames:
    """Finder of `sys.meta_path`: a module's second name leads to the module of the first one."""

    def __init__(self) -> None:
        self.claimed = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Every import of the process comes by.
        if not name.startswith(_SECOND):
            return None
        first = f"{_NAME}.{name}" if IN_WHEEL else name.removeprefix(f"{_NAME}.")
        top = first.removeprefix(f"{_NAME}.").partition(".")[0]
        if top not in NAMES:
            return None
        if not IN_WHEEL:
            _require_ours(top)
        elif name != top:
            if sys.modules.get(top) is not sys.modules.get(f"{_NAME}.{top}"):
                return None
        elif not self.claimed and self.others(name) is not None:
            return None
        import importlib.util

        spec = importlib.util.find_spec(first)
        return None if spec is None else _second_spec(name, spec)

    def others(self, name: str) -> ModuleSpec | None:
        """What is found under a name without this finder. Folders that are no packages count for nothing."""
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, None) if find else None
            if spec is not None and spec.loader is not None:
                return spec
        return None


class _Known:
    """Loader of a module that is imported by its first name."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.first = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        import importlib

        module = importlib.import_module(self.first.name)
        self.first = module.__spec__ or self.first
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has been executed; the import system has just written the second spec into it.
        module.__spec__ = self.first

    def get_code(self, name: str) -> CodeType | None:
        """What `python -m` runs."""
        loader: Any = self.first.loader
        return loader.get_code(self.first.name)


def _second_spec(name: str, first: ModuleSpec) -> ModuleSpec:
    from importlib.machinery import ModuleSpec

    loader: Any = _Known(first)
    spec = ModuleSpec(
        name, loader, origin=first.origin, is_package=first.submodule_search_locations is not None
    )
    spec.has_location = first.has_location
    return spec


def _require_ours(name: str) -> None:
    """Raise ForeignNameError where a name of the repository's package is another project's in this process."""
    import importlib.util

    ours = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(_HERE))), name)
    spec = importlib.util.find_spec(name)
    places = (spec and spec.submodule_search_locations) or []
    if os.path.realpath(ours) not in map(os.path.realpath, places):
        raise ForeignNameError(
            f"{_NAME}.{name} is {ours}, but the name '{name}' belongs to another package "
            f"here ({_place(spec)}); install segbundles from its wheel, whose packages have names of their own",
            name=f"{_NAME}.{name}",
        )


def _place(spec: ModuleSpec | None) -> str:
    return (spec and spec.origin) or "which has no file"


def claim() -> None:
    """Let `networks`, `pipelines` and `transforms` mean the packages of segbundles in this process.

    The configs of the installed bundles begin with it (`$import segbundles.claimed`), because they say
    `"_target_": "networks.R2UNet"`. Where another installed package has one of these names, this process cannot import
    it any more, which is logged.

    Raises:
        ForeignNameError: another package of such a name has been imported already.
    """
    for name in NAMES:
        module = sys.modules.get(name)
        if not IN_WHEEL:
            _require_ours(name)
        elif module is not None and module is not sys.modules.get(f"{_NAME}.{name}"):
            raise ForeignNameError(
                f"'{name}' is a package of another project in this process ({_place(module.__spec__)}), and the configs of "
                f"segbundles mean {_NAME}.{name} by it; run the bundle in a process of its own, or before that "
                "package is imported",
                name=name,
            )
    if not IN_WHEEL or _finder.claimed:
        return
    _finder.claimed = True
    hidden = {name: spec.origin for name in NAMES if (spec := _finder.others(name)) is not None}
    if hidden:
        import logging

        for name, origin in hidden.items():
            logging.getLogger(_NAME).warning(
                "'%s' means %s.%s in this process, and not the package at %s", name, _NAME, name, origin
            )


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("segbundles")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_finder = _SecondNames()
if __name__ == _NAME:
    sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]
