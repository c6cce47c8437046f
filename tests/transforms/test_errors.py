"""The classes of errors: all that a user may see have an exit status, and come whole out of another process."""

import ast
import importlib
import pickle

from networks.errors import NetworkError
from pipelines.config.errors import ConfigError
from pipelines.data.cases import DatasetError
from tests.test_layout import MODULES
from transforms.errors import FAILED, USAGE, ImageError, UserError

# How one part of a process tells another that it has to wait or to end; caught before a user sees them.
SIGNALS = {"Busy", "TakenError", "Terminated", "WorkerDiedError"}
# Raised as a name is imported, before anything else of ours can be; a program catches it as an ImportError.
IMPORTING = {"ForeignNameError"}
# Plain errors that are none of a user's, each as "module: class".
PLAIN = {
    "pipelines.data.patch_store: RuntimeError",  # a mistake in the program: building in a loader's worker
    "pipelines.planning.extrapolation: ValueError",  # a mistake in the program: a planner that measured too little
    "pipelines.tracking.system_metrics: RuntimeError",  # MLflow's way to say that a monitor cannot be had
    "pipelines.utils.import_names: RuntimeError",  # a mistake in the program: a wheel that cannot be built from it
    "pipelines.utils.locks: OSError",  # what another system's own call would raise
}


def test_nothing_is_raised_that_would_reach_the_user_as_a_traceback():
    plain = {"Exception", "ValueError", "RuntimeError", "OSError", "FileNotFoundError", "KeyError"}
    found = {
        f"{name}: {node.exc.func.id}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in plain
    }
    assert found == PLAIN


def error_classes():
    """Every class of errors that the three packages define."""
    for name in MODULES:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == name:
                yield value


def test_every_error_class_is_for_the_user_and_an_error_of_python_too():
    classes = {kind for kind in error_classes() if kind.__name__ not in SIGNALS | IMPORTING} - {UserError}
    assert {ImageError, DatasetError, NetworkError, ConfigError} <= classes
    for kind in classes:
        assert issubclass(kind, NetworkError if kind.__module__ == "networks.errors" else UserError), kind
        assert issubclass(kind, (ValueError, RuntimeError, OSError)), kind
        assert kind.exit_status in (FAILED, USAGE), kind


def test_errors_come_whole_out_of_another_process():
    for kind in set(error_classes()):
        error = kind("cases.json", ["no label", "no image"]) if kind is DatasetError else kind("a: cut off")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)
