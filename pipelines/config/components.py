"""The classes and functions that a config names by `_target_`, and their keyword arguments."""

from __future__ import annotations

import functools
import inspect
import pydoc
from collections.abc import Mapping
from typing import Any

from monai.bundle.config_item import ComponentLocator

from pipelines.config.executed import as_text, is_evaluated, leaves


@functools.cache
def find_component(target: str) -> Any:
    """The class or function of a `_target_`, also for MONAI's components without a module; None if there is none."""
    module = None if "." in target else ComponentLocator().get_component_module_name(target)
    module = module[0] if isinstance(module, list) else module
    return pydoc.locate(f"{module}.{target}" if module else target)


def keywords(component: Any) -> dict[str, inspect.Parameter] | None:
    """The keyword arguments of a class or function; None if they cannot be determined.

    A constructor with **kwargs is assumed to pass them to the next class, as `SegTrainer` does.
    """
    owners = inspect.getmro(component) if inspect.isclass(component) else (component,)
    accepted: dict[str, inspect.Parameter] = {}
    for owner in owners:
        function = vars(owner).get("__init__") if inspect.isclass(owner) else owner
        if function is None:
            continue
        if owner is object:
            return None
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        # If a class and its parent have the same parameter, that of the class applies.
        accepted = named | accepted
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return {name: parameter for name, parameter in accepted.items() if name != "self"}
    return None


def defaults(flat: Mapping[str, str]) -> dict[str, str]:
    """The defaults of the components' arguments that a config does not set, under the ids they would have in it.

    Args:
        flat: `ExecutedConfig.flat()`.
    """
    found: dict[str, str] = {}
    for name, target in flat.items():
        where, _, last = name.rpartition(".")
        if last != "_target_" or is_evaluated(target):
            continue
        for keyword, parameter in (keywords(find_component(target)) or {}).items():
            if parameter.default is not parameter.empty:
                found |= {leaf: as_text(v) for leaf, v in leaves(f"{where}.{keyword}", parameter.default)}
    return found
