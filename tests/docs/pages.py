"""The pages that people read, the code in them, and whether what they name exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from docs.import_map import PACKAGES, REPOSITORY

PAGES = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "bundles/*/README.md")
    for path in REPOSITORY.glob(pattern)
)


def name_of(page: Path) -> str:
    """A page's path from the repository's root."""
    return page.relative_to(REPOSITORY).as_posix()


def python_blocks(page: Path) -> list[str]:
    """The ```python blocks of a page, in order."""
    return _blocks(page.read_text(encoding="utf-8"), "python")


def shell_blocks(page: Path) -> dict[str, list[str]]:
    """The ```sh blocks of a page, in order, below their headings; "" is what stands above the first."""
    parts = re.split(r"^#{2,} (.*)\n", "\n" + page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = zip(["", *parts[1::2]], parts[::2], strict=True)
    return {heading: found for heading, text in sections if (found := _blocks(text, "sh"))}


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _defined(source: str) -> set[str]:
    """Names that a module or the body of a class has, and the methods and attributes of its classes as `Class.name`."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                    found |= {f"{node.name}.{inner.attr}"} if inner.value.id == "self" else set()
    return found


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for stop in range(len(parts), 0, -1):
        path = REPOSITORY.joinpath(*parts[:stop])
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if not file.is_file():
            continue
        rest = ".".join(parts[stop:])
        if not rest or rest in _defined(file.read_text(encoding="utf-8")):
            return True
        package = parts[0]
        return stop == 1 and package in PACKAGES and rest in importlib.import_module(package).__all__
    return False
