"""The state of a trainer in its checkpoint."""

import copy
import functools
import shutil
import sys

import pytest
import torch
from mlflow.tracking import MlflowClient

from pipelines.training.muon import Muon
from pipelines.training.trainer_state import restore_trainer, trainer_state
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient
from tests.pipelines.training.trainers import batches, trainer, weights

ADAMW, MUON = (functools.partial(kind, lr=0.01, weight_decay=0.1) for kind in (torch.optim.AdamW, Muon))
SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)


def engine_with(optimizer, epochs):
    # Of its weights some are matrices for Muon, some are not.
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Conv3d(8, 8, 3, padding=1))
    found = trainer(batches(2, 2), epochs, network=network)
    found.optimizer = optimizer(network.parameters())
    return found


@pytest.mark.parametrize(
    ("earlier", "now", "anew"),
    [(SGD, ADAMW, True), (ADAMW, SGD, True), (MUON, ADAMW, True), (ADAMW, MUON, False), (SGD, SGD, False)],
)
def test_another_optimiser_begins_with_averages_of_its_own(caplog, earlier, now, anew):
    stopped = engine_with(earlier, epochs=1)
    stopped.run()
    state = copy.deepcopy(trainer_state(stopped))
    engine = engine_with(now, epochs=2)
    restore_trainer(engine, state, settings=False)
    assert torch.equal(weights(engine), weights(stopped))
    assert ("the optimiser is another one" in caplog.text) is anew
    assert len(engine.optimizer.state) == (0 if anew else 4)
    assert all(group["lr"] == 0.01 for group in engine.optimizer.param_groups)
    engine.run()
    assert not torch.equal(weights(engine), weights(stopped))


def test_an_optimiser_of_other_parameters_is_refused():
    stopped = engine_with(ADAMW, epochs=1)
    engine = engine_with(ADAMW, epochs=1)
    network = engine.network
    engine.optimizer = torch.optim.AdamW(
        [{"params": network[0].parameters()}, {"params": network[1].parameters()}]
    )
    with pytest.raises(ValueError, match="groups"):
        restore_trainer(engine, trainer_state(stopped), settings=False)


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
