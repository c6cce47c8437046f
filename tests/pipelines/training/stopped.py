"""Trainings in this process that are stopped at a given moment."""

import os
import signal

import pytest
from ignite.engine import Events

from pipelines.config.errors import user_error
from pipelines.inference.trained_model import BEST, load_tensors
from pipelines.training import workflow as module
from pipelines.training.checkpoints import LAST, load_state
from tests.pipelines import small
from tests.pipelines.training.states import equal, without_times

FORMS = {
    "plain": {},
    "accumulation": {"patches_per_epoch": 14, "train__trainer__accumulation_steps": 3},
    "a short last batch": {"patches_per_epoch": 7},
}


def unfinished(folder, dataset, monkeypatch, at=4, **overrides):
    path = small.config(folder, dataset, **overrides)
    with monkeypatch.context() as context:
        At(context, Events.ITERATION_STARTED, at, send(signal.SIGTERM))
        assert isinstance(error_of(path), SystemExit)
    return path


class At:
    """Calls something before an event of the trainer or the evaluator of a training that runs in this process."""

    def __init__(self, monkeypatch, event, when, action):
        self.count = 0
        real = module.Training.run

        def run(training):
            engine = training.evaluator if event == "case" else training.trainer
            name = Events.ITERATION_STARTED if event == "case" else event

            def handler(engine):
                self.count += 1
                if self.count == when:
                    action()

            engine.add_event_handler(name, handler)
            return real(training)

        monkeypatch.setattr(module.Training, "run", run)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def error_of(path, **overrides):
    """What a start of a training ends with."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011  MONAI wraps every error of a config
        small.run(path, **overrides)
    error = caught.value
    return (user_error(error) or error) if isinstance(error, Exception) else error


def require_the_same(expected, found, but=()):
    """Two folders hold the same training."""
    states = [without_times(load_state(folder / LAST)) for folder in (expected, found)]
    for key in states[0].keys() - set(but):
        assert equal(states[0][key], states[1][key]), key
    assert equal(load_tensors(expected / BEST), load_tensors(found / BEST))
