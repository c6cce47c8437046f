"""TorchScript runs where there is no code of ours."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipelines.inference.engines import torchscript
from pipelines.inference.engines.export import checked_export
from pipelines.inference.engines.formats import SIZES, EngineError
from pipelines.inference.engines.sample_windows import made_up_window

ELSEWHERE = """
import json, sys
import numpy as np, torch
for name in ("networks", "pipelines", "transforms"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
extra = {"model_card": "", "export": "", "metadata.json": ""}
network = torch.jit.load("model.ts", _extra_files=extra)
with torch.no_grad():
    np.save("logits.npy", network(torch.from_numpy(np.load("windows.npy"))).numpy())
print(extra["model_card"].decode())
"""


def test_it_runs_without_our_code(r2unet, tmp_path):
    window = made_up_window(r2unet)
    check = checked_export(r2unet, "torchscript", tmp_path / "model.ts", window)
    assert check.sizes == SIZES[0]
    windows = torch.nn.functional.pad(window.repeat(3, 1, 1, 1), (0, 8, 4, 4))
    np.save(tmp_path / "windows.npy", windows.numpy())
    # Installed for development, the repository is on the path by a file in site-packages: -S leaves that out.
    paths = [path for path in sys.path if "site-packages" in path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", ELSEWHERE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == r2unet.card["labels"]
    with torch.no_grad():
        expected = r2unet.network(windows).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_what_cannot_be_scripted_is_traced(oracle, tmp_path):
    """The network of these tests asks for variables of the environment, which TorchScript does not know."""
    check = checked_export(oracle, "torchscript", tmp_path / "model.ts", made_up_window(oracle))
    assert (check.sizes, check.labels) == (SIZES[1], 1.0)


def test_a_torchscript_of_others_is_not_taken_for_ours(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "model.ts")
    with pytest.raises(EngineError, match="does not say of which model it is"):
        torchscript.load(tmp_path / "model.ts")
