"""The names by which the code of the three packages imports itself: short in the repository, long in a wheel.

The repository, packaged bundles and models in MLflow have `networks`, `pipelines` and `transforms` at their root. In a
wheel the same files lie below `segbundles`, and import each other there whatever else is installed. `setup.py` writes
them with long names, and `pipelines.deployment.packaging` with short names again. Needs Python alone, for `setup.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["CLAIM", "LONG", "NAMES", "with_long_names", "with_short_names"]

NAMES = ("networks", "pipelines", "transforms")
LONG = "segbundles."
CLAIM = "$import segbundles.claimed"
"""First of the imports of a config in a wheel: the short names in it mean the packages of the wheel."""
_IMPORTS = '"imports": ['
_CLAIMING = f'{_IMPORTS}"{CLAIM}", '
_LOGGER = "qualname="


def with_long_names(text: str, name: str) -> str:
    """The content of a file of the repository as the wheel has it.

    Args:
        text: the content.
        name: of the file: Python and stubs import by long names, logging configs name long loggers, and configs that
            import anything claim the short names first, which their `_target_`s have.

    Raises:
        RuntimeError: a statement `import pipelines.x` binds a name that would be another one.
    """
    suffix = Path(name).suffix
    if suffix == ".json":
        # A build may come upon what an earlier one has written.
        return with_short_names(text, name).replace(_IMPORTS, _CLAIMING)
    if suffix == ".conf":
        return _replaced_loggers(text, "", LONG)
    return _replaced(text, "", LONG, name) if suffix in (".py", ".pyi") else text


def with_short_names(text: str, name: str) -> str:
    """The content of a file of the wheel as the repository has it; see `with_long_names`."""
    suffix = Path(name).suffix
    if suffix == ".json":
        return text.replace(_CLAIMING, _IMPORTS)
    if suffix == ".conf":
        return _replaced_loggers(text, LONG, "")
    return _replaced(text, LONG, "", name) if suffix in (".py", ".pyi") else text


def _replaced_loggers(text: str, before: str, after: str) -> str:
    for name in NAMES:
        text = text.replace(f"{_LOGGER}{before}{name}", f"{_LOGGER}{after}{name}")
    return text


def _replaced(text: str, before: str, after: str, name: str) -> str:
    """The source with another prefix of our packages in its import statements; nothing else changes."""
    lines = text.splitlines(keepends=True)
    ours = tuple(before + top for top in NAMES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if _is_below(alias.name, ours)]
            if found:
                raise RuntimeError(
                    f"{name}, line {node.lineno}: 'import {found[0]}' binds a name that is another one in a wheel; "
                    "write 'from ... import ...'"
                )
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and _is_below(node.module, ours)
            and not node.level
        ):
            line = lines[node.lineno - 1]
            new = after + node.module.removeprefix(before)
            lines[node.lineno - 1] = line[: node.col_offset] + line[node.col_offset :].replace(
                node.module, new, 1
            )
    return "".join(lines)


def _is_below(module: str, tops: tuple[str, ...]) -> bool:
    return any(module == top or module.startswith(f"{top}.") for top in tops)
