"""The examples in docstrings run and print what stands below them; what people import has one."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from docs.import_map import MODULES

WITH_EXAMPLES = sorted(name for name, path in MODULES.items() if ">>>" in path.read_text(encoding="utf-8"))

# What is of use only within the run of a bundle, with a trained model or a dataset: docs/python.md shows most of it.
WITHOUT = {
    "Engine",
    "Evaluation",
    "PatchDataset",
    "Prediction",
    "Progress",
    "SegEvaluator",
    "SegTrainer",
    "Tracking",
    "TrainedEnsemble",
    "TrainedModel",
    "Training",
    "Validation",
    "VolumeDataset",
    "data_parallel",
    "executed_config",
    "labelled",
    "open_dataset",
    "patch_loader",
    "adopt_cases",
    "apply_plan",
    "preflight",
    "start_distributed",
    "stop_distributed",
    "trained_model",
    "volume_loader",
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("package", ["networks", "transforms", "pipelines"])
def test_what_people_import_has_an_example(package: str) -> None:
    shown = set()
    for name in WITH_EXAMPLES:
        for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ">>>" in (ast.get_docstring(node) or ""):
                shown.add(node.name)
    public = set(importlib.import_module(package).__all__)
    assert not public - shown - WITHOUT, "without an example"
    assert not public & shown & WITHOUT, "no longer without one"
