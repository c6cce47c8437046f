"""What is carried on of a process, through a file that holds only tensors and plain types."""

import random
import shutil
import sys

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from pipelines.distributed.collectives import of_all_ranks, part_of_rank
from pipelines.inference.trained_model import load_tensors
from pipelines.training.seed import random_state, set_random_state
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient


@pytest.mark.parametrize("seed", range(3))
def test_all_generators_go_on_from_a_file(tmp_path, seed):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()  # noqa: NPY002

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    draw()  # half a pair of normal numbers is left over
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(5)]
    draw()
    set_random_state(load_tensors(tmp_path / "state.pt"))
    assert [draw() for _ in range(5)] == expected


def test_one_process_has_one_part():
    assert of_all_ranks("a") == ["a"]
    assert part_of_rank(["a"], 0) == "a"
    assert part_of_rank(["a"], 1) is None


def test_an_iteration_within_an_accumulation_window_tells_the_norm_of_the_step_before(
    template, tmp_path, monkeypatch
):
    """Also where that step was taken by a process that has ended since."""
    patient(monkeypatch)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    uri = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    options = {"epochs": 1, "patches_per_epoch": 8, "checkpoint_minutes": 0}
    options["train__trainer__accumulation_steps"] = 2
    path = small.config(tmp_path / "out", small.write_dataset(tmp_path / "data"), tracked=True, **options)
    monkeypatch.setenv("SMALL_STOP_AT", "3")
    with pytest.raises(Exception, match="workflow"):
        small.run(path)
    monkeypatch.delenv("SMALL_STOP_AT")
    small.run(path)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    norms = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "grad_norm")}
    assert sorted(norms) == [2, 3, 4]
    assert norms[2] == norms[3]
