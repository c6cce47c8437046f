"""Stop within an epoch, and start again: with the same config, another one, or from the beginning."""

import os
import signal
import threading

import pytest
import torch
from ignite.engine import Events

from pipelines.inference.trained_model import BEST
from pipelines.tracking.run import TrackingError
from pipelines.training import workflow as module
from pipelines.training.checkpoints import EARLIER, LAST, Checkpoints, load_state
from pipelines.training.resume import training_identity
from pipelines.utils.signals import Terminated
from tests.pipelines import small
from tests.pipelines.training.stopped import FORMS, At, error_of, require_the_same, send, unfinished
from transforms.utils.files import sha256_of


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [1, 5, 6, 9])
def test_a_signal_stops_at_the_next_step_and_nothing_is_lost(
    straight_forms, dataset, tmp_path, monkeypatch, form, at
):
    path = small.config(tmp_path, dataset, val_interval=2, **FORMS[form])
    stop = At(monkeypatch, Events.ITERATION_STARTED, at, send(signal.SIGTERM))
    assert isinstance(error_of(path), SystemExit)
    window = FORMS[form].get("train__trainer__accumulation_steps", 1)
    length = -(-FORMS[form].get("patches_per_epoch", 6) // 2)
    ends = [i for i in range(1, 4 * length + 1) if ((i - 1) % length + 1) % window == 0 or i % length == 0]
    state = load_state(tmp_path / "models" / LAST)
    assert state["iteration"] == next(end for end in ends if end >= at) == stop.count
    monkeypatch.undo()
    torch.manual_seed(at)  # a new process has another random state
    parser = small.run(path)
    assert parser.get_parsed_content("train#trainer").state.iteration == 4 * length
    require_the_same(straight_forms[form], tmp_path / "models")


def test_a_signal_during_a_validation_ends_it_at_once(straight_forms, dataset, tmp_path, monkeypatch):
    path = small.config(tmp_path, dataset, val_interval=2)
    At(monkeypatch, "case", 1, send(signal.SIGINT))
    assert isinstance(error_of(path), KeyboardInterrupt)
    state = load_state(tmp_path / "models" / LAST)
    assert (state["epoch"], state["inside"], state["iteration"]) == (1, 3, 6)
    monkeypatch.undo()
    validations = At(monkeypatch, "case", 0, None)
    iterations = At(monkeypatch, Events.ITERATION_STARTED, 0, None)
    small.run(path)
    assert validations.count == 2, "that of the second epoch, and the last"
    assert iterations.count == 6, "no iteration of the second epoch is done twice"
    require_the_same(straight_forms["plain"], tmp_path / "models")


def test_a_second_signal_does_not_wait(dataset, tmp_path, monkeypatch):
    def twice():
        send(signal.SIGTERM)()
        with pytest.raises(Terminated):
            send(signal.SIGTERM)()
        raise Terminated

    At(monkeypatch, Events.ITERATION_STARTED, 2, twice)
    assert isinstance(error_of(small.config(tmp_path, dataset)), SystemExit)
    assert not (tmp_path / "models" / LAST).exists()


def test_the_batches_of_a_resumed_epoch_are_the_rest_of_it(dataset, tmp_path, monkeypatch):
    seen = []

    def watch(run):
        def watched(training):
            training.trainer.add_event_handler(
                Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.batch["image"].clone())
            )
            return run(training)

        return watched

    monkeypatch.setattr(module.Training, "run", watch(module.Training.run))
    small.run(small.config(tmp_path / "a", dataset))
    whole, seen[:] = list(seen), []
    path = small.config(tmp_path / "b", dataset, num_workers=1)
    monkeypatch.setenv("SMALL_STOP_AT", "5")
    monkeypatch.setenv("SMALL_STOP_BY", "SIGINT")
    assert isinstance(error_of(path), KeyboardInterrupt)
    assert len(seen) == 5
    monkeypatch.delenv("SMALL_STOP_AT")
    small.run(path)
    assert len(seen) == len(whole) == 12
    for one, other in zip(whole, seen, strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_is_not_kept(dataset, tmp_path, monkeypatch):
    path = small.config(tmp_path, dataset, checkpoint_minutes=0)

    def poison(run):
        def poisoned(training):
            training.trainer.check_interval = 100  # as on a GPU

            def handler(engine):
                if engine.state.iteration >= 2:
                    engine.state.losses[-1] = torch.tensor(float("nan"))

            training.trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
            return run(training)

        return poisoned

    monkeypatch.setattr(module.Training, "run", poison(module.Training.run))
    monkeypatch.setenv("SMALL_STOP_AT", "3")
    error_of(path)
    assert load_state(tmp_path / "models" / LAST)["iteration"] == 1


def test_a_changed_config_is_refused_with_every_difference(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch)
    before = sha256_of(tmp_path / "models" / LAST)
    path = small.config(tmp_path, dataset, ema=0.5, optimizer__lr=0.002, network_def__features=4)
    said = str(error_of(path))
    for phrase in (
        "(1 of 4 epochs done)",
        "ema: 0.9 in the checkpoint, 0.5 now",
        "optimizer#lr: 0.01 in the checkpoint, 0.002 now",
        "network_def#features: 6 in the checkpoint, 4 now",
        "--resume changed",
        "--resume new",
    ):
        assert phrase in said
    assert said.count("in the checkpoint,") == 3
    assert "\n" not in said
    assert sha256_of(tmp_path / "models" / LAST) == before
    # what leaves the weights as they would be may change
    small.run(small.config(tmp_path, dataset, num_workers=1, checkpoint_minutes=5, patience=9))
    assert not (tmp_path / "models" / "previous").exists()


def test_a_config_that_leaves_a_default_out_goes_on(dataset, tmp_path, monkeypatch):
    unfinished(tmp_path, dataset, monkeypatch, network_def__features=6)
    small.run(small.config(tmp_path, dataset, network_def___desc_="the default number of features"))
    state = load_state(tmp_path / "models" / LAST)
    assert (state["finished"], state["epoch"], state["iteration"]) == (True, 4, 12)
    assert not (tmp_path / "models" / "previous").exists()


def test_changed_data_and_processes_are_refused(tmp_path, monkeypatch):
    data = small.write_dataset(tmp_path / "data")
    path = unfinished(tmp_path, data, monkeypatch)
    monkeypatch.setattr(
        module,
        "training_identity",
        lambda flat, digest: {**training_identity(flat, digest), "the number of processes": "2"},
    )
    assert "the number of processes: 1 in the checkpoint, 2 now" in str(error_of(path))
    monkeypatch.undo()
    label = next((data / "labelsTr").iterdir())
    os.utime(label, ns=(0, 0))
    assert "the files of the dataset (digest): " in str(error_of(path))


@pytest.mark.parametrize("value", [False, "new"])
def test_resume_can_be_declined(dataset, tmp_path, monkeypatch, value):
    unfinished(tmp_path, dataset, monkeypatch)
    models = tmp_path / "models"
    small.run(small.config(tmp_path, dataset, resume=value, epochs=1))
    assert load_state(models / "previous" / "001" / LAST)["iteration"] == 4
    # what cannot be read is then no obstacle, and is kept
    (models / LAST).write_bytes(b"")
    (models / EARLIER).unlink()
    small.run(small.config(tmp_path, dataset, resume=value, epochs=1))
    assert (models / "previous" / "002" / LAST).read_bytes() == b""


def test_a_start_that_mlflow_refuses_leaves_the_model_in_place(dataset, tmp_path, monkeypatch):
    small.run(small.config(tmp_path, dataset, epochs=1))
    before = sorted((path.name, sha256_of(path)) for path in (tmp_path / "models").glob("*.*"))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    assert isinstance(error_of(small.config(tmp_path, dataset, tracked=True, epochs=1)), TrackingError)
    assert sorted((path.name, sha256_of(path)) for path in (tmp_path / "models").glob("*.*")) == before


def test_a_model_that_got_lost_is_made_again(dataset, tmp_path, monkeypatch):
    path = unfinished(tmp_path, dataset, monkeypatch)
    (tmp_path / "models" / BEST).write_bytes(b"")
    small.run(path)
    assert Checkpoints(tmp_path / "models").has_model()


def test_signals_are_the_callers_again_afterwards(dataset, tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    small.run(small.config(tmp_path, dataset, epochs=1))
    assert {number: signal.getsignal(number) for number in before} == before
    done = []
    thread = threading.Thread(
        target=lambda: done.append(small.run(small.config(tmp_path / "thread", dataset, epochs=1)))
    )
    thread.start()
    thread.join()
    assert done, "a training in a thread has no signals and needs none"
