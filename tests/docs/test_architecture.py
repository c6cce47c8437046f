"""The map in docs/architecture.md is what the imports say now; its routes are names of the code."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docs.import_map import MODULES, REPOSITORY
from docs.make_architecture import MAP, ROUTES, arrows, levels, rooms
from tests.docs.pages import exists

PAGE = REPOSITORY / "docs" / "architecture.md"
SVG = "{http://www.w3.org/2000/svg}"
KINDS = {"room": ("room", "files", "line"), "import": ("from", "to"), "step": ("route", "step", "words")}


def drawn(path: Path) -> dict[str, set[tuple[str, ...]]]:
    """What a map shows: rooms with their words, arrows, steps."""
    found: dict[str, set[tuple[str, ...]]] = {kind: set() for kind in KINDS}
    for element in ET.parse(path).getroot().iter():
        kind = element.get("class", "")
        if kind in KINDS:
            found[kind].add(tuple(element.attrib[f"data-{name}"] for name in KINDS[kind]))
    return found


def test_the_map_is_what_the_script_draws_now(tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    command = [sys.executable, "-m", "docs.make_architecture", "--output", str(path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)

    now = drawn(path)

    assert all(now.values())
    assert drawn(MAP) == now, "the rooms or their imports have changed: run `make map`"


def test_every_module_is_in_a_room_of_the_map() -> None:
    packages = {name for name in MODULES if "." not in name and name != "networks"}
    assert sum(room.files for room in rooms().values()) == len(MODULES) - len(packages)


def test_no_arrow_goes_up() -> None:
    found = rooms()
    edges = arrows(found)
    level = levels(list(found), edges)
    assert edges
    assert all(level[source] < level[target] for source, target in edges)


def test_no_box_or_text_leaves_the_picture() -> None:
    root = ET.parse(MAP).getroot()
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("x", 0)) + float(rect.attrib["width"]) <= width
        assert float(rect.get("y", 0)) + float(rect.attrib["height"]) <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["x"]) < width
        assert 0 < float(text.attrib["y"]) < height


@pytest.mark.parametrize("name", [name for route in ROUTES for name, _ in route.steps])
def test_a_step_of_a_route_is_in_the_code_and_on_the_page(name: str) -> None:
    assert exists(name)
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(rooms()))
def test_a_room_has_a_paragraph_on_the_page(name: str) -> None:
    path = name.replace(".", "/") + ("" if MODULES[name].name == "__init__.py" else ".py")
    assert f"**{path}**" in PAGE.read_text(encoding="utf-8")
