"""Seconds per phase: each phase gets its own time and nothing else, and measuring never waits for a GPU."""

import math

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader

from pipelines.training import timing as module
from pipelines.training.timing import PHASES, StepTimer, Stopwatch
from pipelines.training.trainer import SegTrainer


class Clock:
    """Time that passes only where the test lets it."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def work(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


DATA, FORWARD, BACKWARD, STEP, BETWEEN = 0.5, 2.0, 3.0, 0.25, 7.0


def engine_of(clock, batch=4):
    """An engine whose every phase takes its own time, with work of others between iterations and epochs."""

    def step(engine, images):
        engine.state.output = {"image": images}
        for seconds, event in (
            (FORWARD, IterationEvents.LOSS_COMPLETED),
            (BACKWARD, IterationEvents.BACKWARD_COMPLETED),
            (STEP, IterationEvents.MODEL_COMPLETED),
        ):
            clock.work(seconds)
            engine.fire_event(event)
        return engine.state.output

    def batches():
        while True:
            clock.work(DATA)
            yield torch.zeros(batch, 1)

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: clock.work(BETWEEN))
    return engine, batches()


def test_each_phase_has_its_own_time(clock):
    engine, batches = engine_of(clock)
    timer, found = StepTimer("cpu"), []
    timer.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: found.append(timer.take()))
    engine.run(batches, max_epochs=2, epoch_length=5)
    assert len(found) == 5
    for values in found:
        assert values == pytest.approx(
            {
                "time/data": DATA,
                "time/waiting_share": 1.0,
                "time/forward": FORWARD,
                "time/backward": BACKWARD,
                "time/optimizer": STEP,
                "patches_per_second": 4 / (DATA + FORWARD + BACKWARD + STEP),
            }
        )
    assert timer.take() == {}


def test_iterations_that_waited_are_counted(clock):
    """The first of each epoch takes longer than all others, as one does whose workers have to start."""
    engine, _ = engine_of(clock)
    share = 0.019 * (FORWARD + BACKWARD + STEP)  # of less than 2%

    def batches():
        for number in range(20):
            clock.work(share if number % 4 else 10 * share)
            yield torch.zeros(1, 1)

    timer, found = StepTimer("cpu"), []
    timer.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=4), lambda: found.append(timer.take()))
    engine.run(batches(), max_epochs=1, epoch_length=20)
    assert [values["time/waiting_share"] for values in found] == [0.25] * 5


def test_what_follows_the_last_iteration_is_no_training(clock):
    engine, batches = engine_of(clock)
    timer, found = StepTimer("cpu"), []
    timer.attach(engine)
    # After the validation of the epoch, which the engine's own handler stands for.
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(timer.take()))
    engine.run(batches, max_epochs=2, epoch_length=3)
    assert [values["patches_per_second"] for values in found] == pytest.approx([4 / 5.75] * 2)


def test_patches_of_all_processes_count(clock, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    engine, batches = engine_of(clock)
    timer = StepTimer("cpu")
    timer.attach(engine)
    engine.run(batches, max_epochs=1, epoch_length=3)
    assert timer.take()["patches_per_second"] == pytest.approx(12 / 5.75)


def test_a_stopwatch_knows_the_last_run(clock):
    watch = Stopwatch()
    engine = Engine(lambda engine, batch: clock.work(batch))
    watch.attach(engine)
    assert watch.seconds is None
    for seconds in (2.0, 3.0):
        engine.run([seconds])
        assert watch.seconds == seconds


@pytest.mark.cuda
def test_measuring_never_waits_for_the_gpu():
    """torch raises in this mode wherever the host waits for the device."""
    items = [{"image": torch.rand(1, 64, 64, 64), "label": torch.ones(1, 64, 64, 64), "case": "a"}] * 24
    network = torch.nn.Conv3d(1, 2, 5, padding=2)
    trainer = SegTrainer(
        device="cuda",
        max_epochs=1,
        train_data_loader=DataLoader(items, batch_size=2, pin_memory=True),
        network=network.cuda(),
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=lambda logits, labels: (logits.mean(1, keepdim=True) - labels).square().mean(),
        check_interval=100,
    )
    timer, found = StepTimer("cuda"), []
    timer.attach(trainer)
    trainer.add_event_handler(
        Events.ITERATION_STARTED(event_filter=lambda _, n: 3 <= n <= 10),
        lambda: torch.cuda.set_sync_debug_mode("error"),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: torch.cuda.set_sync_debug_mode("default"))

    def read():
        torch.cuda.synchronize()
        found.append(timer.take())

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=4), read)
    trainer.run()
    assert len(found) == 3
    for values in found:
        assert {f"time/{phase}" for phase in PHASES} < set(values)
        assert 0 <= values.pop("time/waiting_share") <= 1
        assert all(0 < value < math.inf for value in values.values())
    assert not timer._done
