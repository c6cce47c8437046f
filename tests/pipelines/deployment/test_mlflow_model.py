"""Models that MLflow holds from before modules moved: their own code lies beside them."""

import shutil
import subprocess
import sys

import pytest

from pipelines.deployment import mlflow_model
from tests.pipelines import tiny_model

EARLIER = "pipelines.model_of_an_earlier_version"
LOAD = """
import mlflow, numpy as np, sys
model = mlflow.pyfunc.load_model(sys.argv[1])
import pipelines
assert pipelines.__file__.startswith(sys.argv[1]), pipelines.__file__
print(model.predict(np.zeros((12, 12, 12), np.int16)).shape)
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A model whose loader has a name that this repository no longer knows."""
    folder = tmp_path_factory.mktemp("earlier")
    tiny_model.write_model(folder / "models")
    root = mlflow_model.write_model(folder / "model", folder / "models", None)
    now = mlflow_model.__name__
    shutil.move(root / f"{now.replace('.', '/')}.py", root / f"{EARLIER.replace('.', '/')}.py")
    described = (root / "MLmodel").read_text(encoding="utf-8")
    assert f"loader_module: {now}\n" in described
    (root / "MLmodel").write_text(described.replace(now, EARLIER), encoding="utf-8")
    return root


def load(root, repository, before=""):
    words = [sys.executable, "-c", before + LOAD, str(root)]
    return subprocess.run(words, cwd=repository, capture_output=True, text=True)


def test_a_model_from_before_a_move_is_loaded_with_its_own_code(earlier, repository):
    """Although the process has started in the root of the repository, from where Python would import that code."""
    done = load(earlier, repository)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "(12, 12, 12)"


def test_a_process_stays_with_the_code_that_it_has_imported(earlier, repository):
    """See docs/training.md: such a model then wants a process of its own."""
    done = load(earlier, repository, before="import pipelines")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: No module named '{EARLIER}'"
