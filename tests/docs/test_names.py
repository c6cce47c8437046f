"""Every file, module and name that a page speaks of is there, and is imported by its shortest name."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from docs.import_map import MODULES, REPOSITORY
from tests.docs.pages import PAGES, exists, name_of, python_blocks

ROOTS = ("pipelines", "transforms", "networks", "benchmarks", "tests", "docs", "bundles")
# A path that begins at one of our folders; not one within a longer path or address.
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(ROOTS)})(?:/[\w.-]+)+")
DOTTED = re.compile(r"(?<![\w./-])(?:pipelines|transforms|networks|benchmarks|tests|docs)(?:\.\w+)+(?![\w/])")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
# What a training writes.
WRITTEN = re.compile(r"bundles/\w+/models(/|$)")
SOURCES = sorted([*MODULES.values(), *(REPOSITORY / "benchmarks").glob("*.py")])
# MONAI's own module of that name, and the network that CONTRIBUTING adds as an example.
NOT_OURS = {"networks.nets.UNet", "networks.PlainNet"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_exist(page: Path) -> None:
    paths = {found.group().rstrip(".") for found in PATH.finditer(page.read_text(encoding="utf-8"))}
    missing = [path for path in paths if not WRITTEN.match(path) and not (REPOSITORY / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_dotted_names_exist(page: Path) -> None:
    names = {found.group() for found in DOTTED.finditer(page.read_text(encoding="utf-8"))} - NOT_OURS
    files = {name for name in names if name.endswith((".md", ".py", ".json", ".svg"))}
    assert not [name for name in names - files if not exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_take_the_shortest_name(page: Path) -> None:
    """`from pipelines import Tracking`, and the long path only of what has no other."""
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").count(".") == 0:
                continue
            package = (node.module or "").partition(".")[0]
            if package in ("pipelines", "transforms", "networks"):
                longer = {alias.name for alias in node.names} & set(importlib.import_module(package).__all__)
                assert not longer, f"from {node.module} import {longer}: `from {package}` has it"


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_docstrings_name_whatexists(source: Path) -> None:
    """A module or page in a docstring or comment is one of today, not of before a move."""
    text = source.read_text(encoding="utf-8")
    names = set(re.findall(r"`~?((?:pipelines|transforms|networks|benchmarks|tests)(?:\.\w+)+)`", text))
    assert not [name for name in names if not exists(name)]
    assert not [page for page in re.findall(r"docs/\w+\.md", text) if not (REPOSITORY / page).is_file()]
