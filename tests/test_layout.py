"""The rooms of the project: who may import whom, how long a file may be, where a module's tests are.

docs/architecture.md explains the rooms; here their rules are read from the imports themselves.
"""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from docs.import_map import MODULES, PACKAGES, REPOSITORY, imports_of, room

# What a room may import besides itself. A room that is not named here fails the test.
DOORS = {
    "networks": [],
    "transforms.errors": [],
    "transforms.intensity": [],
    "transforms.hounsfield": [],
    "transforms.utils": ["transforms.errors"],
    "transforms.label_values": ["transforms.errors", "transforms.utils"],
    "transforms.dicom": ["transforms.errors", "transforms.utils", "transforms.label_values"],
    "transforms.io": ["transforms.errors", "transforms.utils", "transforms.label_values", "transforms.dicom"],
    "transforms.spatial": ["transforms.errors", "transforms.utils", "transforms.io"],
    "transforms.augmentation": ["transforms.errors", "transforms.utils"],
    "transforms.visualization": ["transforms.errors", "transforms.utils", "transforms.label_values"],
    "transforms.preprocess": [
        "transforms.errors",
        "transforms.utils",
        "transforms.label_values",
        "transforms.intensity",
        "transforms.hounsfield",
        "transforms.io",
        "transforms.spatial",
    ],
    "pipelines.utils": ["transforms"],
    "pipelines.distributed": ["transforms", "pipelines.utils"],
    "pipelines.metrics": ["transforms", "pipelines.utils"],
    "pipelines.config": ["transforms", "pipelines.utils"],
}
DOORS["pipelines.tracking"] = [
    "transforms",
    "pipelines.utils",
    "pipelines.distributed",
    "pipelines.metrics",
]
DOORS["pipelines.data"] = [
    "transforms",
    "pipelines.utils",
    "pipelines.distributed",
    "pipelines.config",
]
DOORS["pipelines.inference"] = [*DOORS["pipelines.data"], "pipelines.metrics", "pipelines.data"]
DOORS["pipelines.evaluation"] = [*DOORS["pipelines.inference"], "pipelines.tracking", "pipelines.inference"]
DOORS["pipelines.packaging"] = ["transforms", "pipelines.utils", "pipelines.inference"]
DOORS["pipelines.mlflow_model"] = [
    "transforms",
    "pipelines.utils",
    "pipelines.inference",
    "pipelines.packaging",
]
DOORS["pipelines.training"] = [
    *DOORS["pipelines.evaluation"],
    "pipelines.evaluation",
    "pipelines.packaging",
    "pipelines.mlflow_model",
]
DOORS["pipelines.comparison"] = ["transforms", "pipelines.utils", "pipelines.metrics", "pipelines.tracking"]
DOORS["pipelines.cli"] = ["transforms", "pipelines"]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    if name in (*PACKAGES, "pipelines.__main__"):
        allowed = [room(name), *(["pipelines"] if name == "pipelines.__main__" else [])]
    else:
        assert room(name) in DOORS, f"{room(name)} is a room without doors: name it in {Path(__file__).name}"
        allowed = [room(name), *DOORS[room(name)]]
    for module in imports_of(name):
        assert any(module == door or module.startswith(f"{door}.") for door in allowed), (
            f"{name} imports {module}; a module of {room(name)} may import {allowed}"
        )


def test_no_circle_of_imports() -> None:
    graph = {name: imports_of(name) - {name, *PACKAGES} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_has_at_most_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def test_the_workflow_shows_few_entries() -> None:
    entries = [path.name for path in (REPOSITORY / "pipelines").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16, entries
