"""Stop within an epoch, change the config, train longer, stop early, run out of disk: in one process."""

import json
import os
import resource
import shlex
import signal
import sys
import threading

import pytest
import torch
from ignite.engine import Events

from pipelines.config.errors import user_error
from pipelines.inference.trained_model import BEST, CARD, load_tensors
from pipelines.tracking.run import TrackingError
from pipelines.training import workflow as module
from pipelines.training.checkpoints import EARLIER, LAST, CheckpointNotWrittenError, Checkpoints, load_state
from pipelines.training.resume import training_identity
from pipelines.utils.signals import Terminated
from tests.pipelines import small
from tests.pipelines.training.test_checkpoints import equal, without_times
from transforms.utils.files import sha256_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # preflight() replaces it


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


FORMS = {
    "plain": {},
    "accumulation": {"patches_per_epoch": 14, "train__trainer__accumulation_steps": 3},
    "a short last batch": {"patches_per_epoch": 7},
}


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """Folders of trainings never stopped, by form."""
    folders = {}
    hook = sys.excepthook
    for form, overrides in FORMS.items():
        folder = tmp_path_factory.mktemp("straight")
        small.run(small.config(folder, dataset, val_interval=2, **overrides))
        folders[form] = folder / "models"
    sys.excepthook = hook
    return folders


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [1, 5, 6, 9])
def test_a_signal_stops_at_the_next_step_and_nothing_is_lost(
    straight, dataset, tmp_path, monkeypatch, form, at
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
    require_the_same(straight[form], tmp_path / "models")


def test_a_signal_during_a_validation_ends_it_at_once(straight, dataset, tmp_path, monkeypatch):
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
    require_the_same(straight["plain"], tmp_path / "models")


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


def test_checkpoints_by_time(dataset, tmp_path, monkeypatch):
    written = []
    real = Checkpoints.save

    def save(self, state):
        written.append(state["iteration"])
        return real(self, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    small.run(small.config(tmp_path / "a", dataset, epochs=1))
    assert written == [3, 3], "after the epoch, and when all is done"
    written.clear()
    small.run(small.config(tmp_path / "b", dataset, epochs=1, checkpoint_minutes=0))
    assert written == [1, 2, 3, 3, 3]
    error = error_of(small.config(tmp_path / "c", dataset, checkpoint_minutes=-1))
    assert "checkpoint_minutes is -1" in str(error)


def test_a_loss_that_is_not_finite_is_not_kept(dataset, tmp_path, monkeypatch):
    path = small.config(tmp_path, dataset, checkpoint_minutes=0)

    def poison(run):
        def poisoned(training):
            training.trainer.check_interval = 100  # as on a GPU

            def handler(engine):
                if engine.state.iteration >= 2:
                    engine.state.output["loss"] = torch.tensor(float("nan"))

            training.trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
            return run(training)

        return poisoned

    monkeypatch.setattr(module.Training, "run", poison(module.Training.run))
    monkeypatch.setenv("SMALL_STOP_AT", "3")
    error_of(path)
    assert load_state(tmp_path / "models" / LAST)["iteration"] == 1


def unfinished(folder, dataset, monkeypatch, at=4, **overrides):
    path = small.config(folder, dataset, **overrides)
    with monkeypatch.context() as context:
        At(context, Events.ITERATION_STARTED, at, send(signal.SIGTERM))
        assert isinstance(error_of(path), SystemExit)
    return path


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
        assert f"is past epoch {epochs} already: give more --epochs" in str(error)
    small.run(small.config(tmp_path, dataset, epochs=3))
    assert load_state(tmp_path / "models" / LAST)["finished"]


def stub_dice(monkeypatch, values):
    """Mean Dice of the validations, one after the other, whatever the network does."""
    given = iter(values)
    real = module.Training._on_epoch

    def on_epoch(training, engine):
        if training.evaluator.state.epoch == engine.state.epoch:
            training.evaluator.state.metrics["val_mean_dice"] = next(given)
        return real(training, engine)

    monkeypatch.setattr(module.Training, "_on_epoch", on_epoch)


def test_early_stopping_ends_the_training_well_and_counts_on_after_a_stop(dataset, tmp_path, monkeypatch):
    dice = [0.1, 0.5, 0.505, 0.4, 0.3, 0.9]
    settings = {"epochs": 9, "patience": 3, "min_delta": 0.01}
    stub_dice(monkeypatch, dice)
    unfinished(tmp_path, dataset, monkeypatch, at=10, **settings)
    path = small.config(tmp_path, dataset, **settings)
    small.run(path)
    state = load_state(tmp_path / "models" / LAST)
    assert state["finished"]
    assert state["stopped_early"]
    assert [row["val_mean_dice"] for row in state["history"]] == dice[:5]
    # the best is the best, progress or not
    card = json.loads((tmp_path / "models" / CARD).read_text())
    assert card["epoch"] == 3
    assert card["experiment"] == "small"
    # with more patience it goes on where it stopped
    monkeypatch.undo()
    stub_dice(monkeypatch, [0.9, 0.8, 0.8, 0.8])
    small.run(small.config(tmp_path, dataset, **{**settings, "patience": 4}))
    state = load_state(tmp_path / "models" / LAST)
    assert [row["val_mean_dice"] for row in state["history"]] == [*dice[:5], 0.9, 0.8, 0.8, 0.8]
    assert not state["stopped_early"]
    assert not (tmp_path / "models" / "previous").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patience": 2, "workflow__evaluator": None}, "patience needs validation cases"),
        ({"patience": 0}, "patience is 0; give a number of validations from 1"),
        ({"patience": 2, "min_delta": -1}, "min_delta is -1; give the Dice"),
    ],
)
def test_early_stopping_that_cannot_be_is_refused(dataset, tmp_path, settings, said):
    assert said in str(error_of(small.config(tmp_path, dataset, **settings)))


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_disk_that_is_full_for_a_while_costs_nothing(straight, dataset, tmp_path, monkeypatch, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    path = small.config(tmp_path, dataset, val_interval=2)
    At(monkeypatch, Events.EPOCH_STARTED, 1, lambda: limit(4096))
    At(monkeypatch, Events.EPOCH_STARTED, 4, lambda: limit(soft))
    try:
        small.run(path)
    finally:
        limit(soft)
    require_the_same(straight["plain"], tmp_path / "models")
    warnings = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(warnings) == 3
    assert all("free some room there" in text and "goes on" in text for text in warnings)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_disk_that_stays_full_fails_the_training_and_loses_no_older_file(
    straight, dataset, tmp_path, monkeypatch
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = small.config(tmp_path, dataset, val_interval=2)
    At(monkeypatch, Events.EPOCH_STARTED, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard)))
    try:
        error = error_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, CheckpointNotWrittenError)
    assert load_state(tmp_path / "models" / LAST)["epoch"] == 3
    assert Checkpoints(tmp_path / "models").has_model()
    assert not [name for name in os.listdir(tmp_path / "models") if "tmp" in name or "next" in name]
    monkeypatch.undo()
    small.run(path)
    require_the_same(straight["plain"], tmp_path / "models")


def test_the_commands_at_the_end_can_be_pasted(dataset, tmp_path, capsys):
    folder = tmp_path / "my bundle"
    small.run(small.config(folder, dataset, epochs=1))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "evaluate.json" in line]
    assert shlex.split(line)[-3:] == [f"{folder}/evaluate.json", "--dataset_dir", str(dataset)]


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
