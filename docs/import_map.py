"""Who imports whom, read from the source files: for the map in docs/architecture.md and for tests/test_layout.py."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("networks", "transforms", "pipelines")


def modules() -> dict[str, Path]:
    """Dotted name to file, for every module of the three packages."""
    found = {}
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """Modules of ours that a module imports, at its head or inside a function."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return {module for module in found if module.split(".")[0] in PACKAGES}


def room(name: str) -> str:
    """The room of a module: `pipelines.data` of `pipelines.data.cases`; all of `networks` is one room."""
    parts = name.split(".")
    return parts[0] if parts[0] == "networks" else ".".join(parts[:2])
