"""The rooms of the project: who may import whom, how long a file may be, where a module's tests are.

docs/architecture.md explains the rooms; here their rules are read from the imports themselves.
"""

import ast
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from docs.import_map import MODULES, PACKAGES, REPOSITORY, imports_of, room

TESTS = REPOSITORY / "tests"

# What a room may import besides itself. A room that is not named here fails the test.
DOORS = {
    "networks": [],
    "transforms.errors": [],
    "transforms.normalization": [],
    "transforms.intensity": ["transforms.errors", "transforms.normalization"],
    "transforms.hounsfield": [],
    "transforms.utils": ["transforms.errors"],
    "transforms.label_values": ["transforms.errors", "transforms.utils"],
    "transforms.dicom": ["transforms.errors", "transforms.utils", "transforms.label_values"],
    "transforms.io": ["transforms.errors", "transforms.utils", "transforms.label_values", "transforms.dicom"],
    "transforms.spatial": ["transforms.errors", "transforms.utils", "transforms.io"],
    "transforms.augmentation": ["transforms.errors", "transforms.utils", "transforms.intensity"],
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
    "transforms.dictionary": [
        "transforms.errors",
        "transforms.io",
        "transforms.spatial",
        "transforms.preprocess",
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
DOORS["pipelines.planning"] = [*DOORS["pipelines.inference"], "pipelines.inference"]
DOORS["pipelines.evaluation"] = [*DOORS["pipelines.inference"], "pipelines.tracking", "pipelines.inference"]
DOORS["pipelines.deployment"] = [
    "transforms",
    "pipelines.utils",
    "pipelines.config",
    "pipelines.metrics",
    "pipelines.inference",
]
DOORS["pipelines.training"] = [
    *DOORS["pipelines.evaluation"],
    "pipelines.planning",
    "pipelines.evaluation",
    "pipelines.deployment",
]
DOORS["pipelines.comparison"] = [
    "transforms",
    "pipelines.utils",
    "pipelines.metrics",
    "pipelines.config",
    "pipelines.tracking",
]
DOORS["pipelines.cli"] = ["transforms", "pipelines"]

# A module is tested by its namesake: `transforms/io/nifti.py` by `tests/transforms/io/test_nifti.py`. Here are the
# others, below tests/: commands are tested as a user types them, the rest with what it is a part of.
TESTED_IN = {
    "networks.errors": "transforms/test_errors.py",
    "pipelines.cli.bundle": "e2e/test_installed.py",
    "pipelines.cli.check": "pipelines/data/test_check.py",
    "pipelines.cli.compare": "e2e/test_compare.py",
    "pipelines.cli.completion": "e2e/test_installed.py",
    "pipelines.cli.convert": "pipelines/data/conversion/test_convert.py",
    "pipelines.cli.evaluate": "e2e/test_evaluate.py",
    "pipelines.cli.export": "pipelines/inference/engines/test_command.py",
    "pipelines.cli.crossval": "e2e/test_crossval.py",
    "pipelines.cli.node": "e2e/test_node.py",
    "pipelines.cli.plan": "e2e/test_plan.py",
    "pipelines.cli.predict": "e2e/test_predict.py",
    "pipelines.cli.sync": "pipelines/tracking/test_sync.py",
    "pipelines.cli.train": "e2e/test_installed.py",
    "pipelines.deployment.installed": "e2e/test_installed.py",
    "pipelines.deployment.installed.claimed": "e2e/test_installed.py",
    "pipelines.deployment.packaging": "e2e/test_packaging.py",
    "transforms.visualization.planes": "transforms/visualization/test_overlay.py",
    "pipelines.distributed.failures": "pipelines/distributed/test_process_group.py",
    "pipelines.evaluation.folder_evaluation": "e2e/test_evaluate.py",
    "pipelines.deployment.node.node": "e2e/test_node.py",
    "pipelines.inference.card_values": "pipelines/inference/test_model_card.py",
    "pipelines.planning.knobs": "pipelines/planning/test_planner.py",
    "pipelines.planning.records": "pipelines/planning/test_plan_file.py",
    "transforms.dicom.attributes": "transforms/dicom/test_frame.py",
    "transforms.utils.image_paths": "pipelines/test_hostile_inputs.py",
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    if name in (*PACKAGES, "pipelines.__main__"):
        allowed = [room(name), *(["pipelines", "transforms"] if name == "pipelines.__main__" else [])]
    else:
        assert room(name) in DOORS, f"{room(name)} is a room without doors: name it in {Path(__file__).name}"
        allowed = [room(name), *DOORS[room(name)]]
    for module in imports_of(name):
        assert any(module == door or module.startswith(f"{door}.") for door in allowed), (
            f"{name} imports {module}; a module of {room(name)} may import {allowed}"
        )


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(PACKAGES)))
def test_no_module_imports_itself(name: str) -> None:
    assert name not in imports_of(name)


def test_no_circle_of_imports() -> None:
    graph = {name: imports_of(name) - {name, *PACKAGES} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_has_at_most_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", sorted(MODULES))
def test_docstrings_are_in_google_style(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert (
        re.findall(r"^ *(?:Parameters|Attributes|Returns|Yields|Raises|Notes)\n *-+$", text, re.MULTILINE)
        == []
    )


def test_the_workflow_shows_few_entries() -> None:
    beside = ("__pycache__", "__init__.pyi", "py.typed")
    entries = [path.name for path in (REPOSITORY / "pipelines").iterdir() if path.name not in beside]
    assert len(entries) <= 16, entries


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_of_a_package_is_found(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    for exported in package.__all__:
        assert getattr(package, exported).__name__ == exported
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="absent"):
        package.absent  # noqa: B018


def namesake(name: str) -> Path:
    *rooms, last = name.split(".")
    return TESTS.joinpath(*rooms, f"test_{last}.py")


def public_names(name: str) -> set[str]:
    """What a module defines for others. A command is its own name, as it is typed."""
    if name.startswith("pipelines.cli."):
        return {name.rpartition(".")[2]}
    found = set()
    for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        found |= {getattr(node, "name", "_")}
    return {word for word in found if not word.startswith("_")}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if MODULES[name].name[:2] != "__"))
def test_every_module_is_tested_where_its_name_is_sought(name: str) -> None:
    path = namesake(name)
    assert path.is_file() or name in TESTED_IN, (
        f"{name} has no tests in {path.relative_to(REPOSITORY)}; write them, or name in TESTED_IN where they are"
    )


@pytest.mark.parametrize("name", TESTED_IN)
def test_tests_elsewhere_are_there(name: str) -> None:
    assert name in MODULES, f"there is no module {name} any more; take it out of TESTED_IN"
    assert not namesake(name).exists(), f"{name} has tests of its own now; take it out of TESTED_IN"
    text = (TESTS / TESTED_IN[name]).read_text(encoding="utf-8")
    names = sorted(public_names(name))
    assert any(re.search(rf"\b{word}\b", text) for word in names), f"{TESTED_IN[name]} names none of {names}"


MIRRORED = sorted(path for package in PACKAGES for path in (TESTS / package).rglob("test_*.py"))


@pytest.mark.parametrize("path", MIRRORED, ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_in_a_room_are_of_a_module_in_it(path: Path) -> None:
    """`test_<module>.py`, or `test_<module>_<subject>.py`. What several rooms do together stands above them."""
    *rooms, last = path.relative_to(TESTS).with_suffix("").parts
    modules = [name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == ".".join(rooms)]
    subject = last.removeprefix("test_")
    assert len(rooms) == 1 or any(subject == word or subject.startswith(f"{word}_") for word in modules)
