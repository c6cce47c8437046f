"""A training goes on from its checkpoint with other settings."""

import pytest
import torch
from ignite.engine import Events

from pipelines.training import workflow as module
from pipelines.training.checkpoints import LAST, load_state
from tests.pipelines import small
from tests.pipelines.training.states import equal
from tests.pipelines.training.stopped import At, error_of, unfinished


def test_going_on_with_other_settings_uses_them(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch)
    weights = load_state(tmp_path / "models" / LAST)["network"]
    path = small.config(tmp_path, dataset, optimizer__lr=0.002, resume="changed")
    rates, first = [], []

    def watch(run):
        def watched(training):
            training.trainer.add_event_handler(
                Events.STARTED,
                lambda engine: first.append({k: v.clone() for k, v in engine.network.state_dict().items()}),
            )
            training.trainer.add_event_handler(
                Events.ITERATION_STARTED, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"])
            )
            return run(training)

        return watched

    monkeypatch.setattr(module.Training, "run", watch(module.Training.run))
    parser = small.run(path)
    assert equal(first[0], dict(weights))
    schedule = parser.get_parsed_content("lr_scheduler").lr_lambdas[0]
    assert rates == [0.002 * schedule(step) for step in range(4, 12)]
    error = error_of(small.config(tmp_path, dataset, resume="sometimes"))
    assert "resume is 'sometimes'" in str(error)


def test_another_batch_size_goes_on_at_the_same_patch(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch, at=5, patches_per_epoch=12)
    assert load_state(tmp_path / "models" / LAST)["patches"] == 10
    path = small.config(tmp_path, dataset, patches_per_epoch=12, batch_size=3, resume="changed")
    iterations = At(monkeypatch, Events.ITERATION_STARTED, 0, None)
    parser = small.run(path)
    # of 4 batches of 3 the first 3 hold the 10 patches that were seen but the last
    assert iterations.count == 1 + 3 * 4
    assert parser.get_parsed_content("train#trainer").state.iteration == 16


def test_another_network_cannot_go_on(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch)
    error = error_of(small.config(tmp_path, dataset, network_def__features=4, resume="changed"))
    assert "does not fit the network" in str(error)
    assert "--resume new" in str(error)


@pytest.mark.parametrize("finished", [True, False])
def test_more_epochs_go_on_from_the_last(dataset, tmp_path, monkeypatch, finished):
    if finished:
        small.run(small.config(tmp_path, dataset, epochs=2))
    else:
        unfinished(tmp_path, dataset, monkeypatch, at=5, epochs=2)
    models = tmp_path / "models"
    history = load_state(models / LAST)["history"]
    rates = []

    def watch(run):
        def watched(training):
            training.trainer.add_event_handler(
                Events.ITERATION_STARTED, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"])
            )
            return run(training)

        return watched

    monkeypatch.setattr(module.Training, "run", watch(module.Training.run))
    parser = small.run(small.config(tmp_path, dataset, epochs=4))
    state = load_state(models / LAST)
    assert state["history"][: len(history)] == history
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3, 4]
    assert not (models / "previous").exists()
    # the rates are those of the longer schedule from the first step on
    schedule = parser.get_parsed_content("lr_scheduler").lr_lambdas[0]
    assert rates == [0.01 * schedule(step) for step in range(6 if finished else 5, 12)]


def test_fewer_epochs_than_done_are_refused(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch, at=8)
    for epochs in (1, 2):
        error = error_of(small.config(tmp_path, dataset, epochs=epochs))
        assert f"is already past epoch {epochs}; give more --epochs" in str(error)
    small.run(small.config(tmp_path, dataset, epochs=3))
    assert load_state(tmp_path / "models" / LAST)["finished"]


def test_all_generators_go_on(dataset, tmp_path, monkeypatch):
    import random

    import numpy as np

    drawn = []

    def watch(run):
        def watched(training):
            def draw(engine):
                drawn.append((random.random(), np.random.random(), float(torch.rand(1))))  # noqa: NPY002

            training.trainer.add_event_handler(Events.ITERATION_STARTED, draw)
            return run(training)

        return watched

    monkeypatch.setattr(module.Training, "run", watch(module.Training.run))
    small.run(small.config(tmp_path / "a", dataset, epochs=2))
    whole, drawn[:] = list(drawn), []
    path = unfinished(tmp_path / "b", dataset, monkeypatch, at=4, epochs=2)
    small.run(path)
    assert drawn == whole
