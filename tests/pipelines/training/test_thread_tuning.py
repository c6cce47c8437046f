"""The number of threads by the time of steps, on a clock of the test's own."""

from __future__ import annotations

import pytest
import torch

from pipelines.training import thread_tuning
from pipelines.training.thread_tuning import FIRST_RETRY, RETRY, SLOW_STEPS, STEPS, ThreadTuner
from pipelines.utils.cores import VARIABLES


class Machine:
    """Steps that take the seconds of their number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.threads = seconds, 0.0, max(seconds)
        self.tried: list[int] = []

    def set(self, count: int) -> None:
        self.threads = count

    def steps(self, tuner: ThreadTuner, count: int) -> None:
        for _ in range(count):
            with tuner.step():
                self.tried.append(self.threads)
                self.now += self.seconds[self.threads]


@pytest.fixture
def start(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def make(seconds: dict[int, float]) -> tuple[Machine, ThreadTuner]:
        machine = Machine(seconds)
        monkeypatch.setattr(thread_tuning.torch, "set_num_threads", machine.set)
        monkeypatch.setattr(thread_tuning.torch, "get_num_threads", lambda: machine.threads)
        return machine, ThreadTuner("cpu", clock=lambda: machine.now)

    return make


def test_a_quiet_machine_keeps_all_threads(start):
    machine, tuner = start({4: 1.0, 2: 1.8, 1: 3.4})
    machine.steps(tuner, 40)
    assert machine.threads == 4
    assert machine.tried.count(2) == STEPS
    assert 1 not in machine.tried


def test_a_busy_machine_takes_fewer(start, caplog):
    caplog.set_level("INFO", logger="pipelines.training.thread_tuning")
    machine, tuner = start({2: 10.7, 1: 3.2})
    machine.steps(tuner, 20)
    assert machine.threads == 1
    assert caplog.messages == [
        "threads: 1 instead of 2, since a step then takes 3.20 s instead of 10.70 s; another program is using the CPU "
        "cores of this machine"
    ]


def test_it_goes_down_as_long_as_that_is_faster(start):
    machine, tuner = start({8: 9.0, 4: 5.0, 2: 4.0, 1: 6.0})
    machine.steps(tuner, 20)
    assert machine.threads == 2
    assert set(machine.tried) == {8, 4, 2, 1}


def test_a_little_faster_is_not_worth_it(start):
    machine, tuner = start({2: 1.0, 1: 0.95})
    machine.steps(tuner, 20)
    assert machine.threads == 2


def test_steps_that_get_slow_are_timed_anew(start):
    machine, tuner = start({2: 1.0, 1: 1.6})
    machine.steps(tuner, 20)
    machine.seconds = {2: 8.0, 1: 2.0}
    machine.steps(tuner, SLOW_STEPS + 2 * STEPS)
    assert machine.threads == 1


def test_one_slow_step_is_none(start):
    machine, tuner = start({2: 1.0, 1: 1.6})
    machine.steps(tuner, 20)
    before = machine.tried.count(1)
    for _ in range(4):
        machine.seconds[2] = 9.0
        machine.steps(tuner, SLOW_STEPS - 1)
        machine.seconds[2] = 1.0
        machine.steps(tuner, 1)
    assert machine.tried.count(1) == before


def test_all_threads_come_back_when_the_other_program_has_ended(start, caplog):
    caplog.set_level("INFO", logger="pipelines.training.thread_tuning")
    machine, tuner = start({2: 10.0, 1: 2.0})
    machine.steps(tuner, 20)
    machine.seconds = {2: 1.0, 1: 2.0}
    # It was tried once in vain, after which the pause is twice as long.
    machine.steps(tuner, int(2 * FIRST_RETRY / 2.0) + 3 * STEPS)
    assert machine.threads == 2
    assert caplog.messages[-1] == "threads: 2 again, since a step then takes 1.00 s"


def test_a_program_that_stays_costs_a_step_now_and_then(start, caplog):
    caplog.set_level("INFO", logger="pipelines.training.thread_tuning")
    machine, tuner = start({2: 20.0, 1: 1.0})
    machine.steps(tuner, 3 * STEPS)
    before, began = machine.tried.count(2), machine.now
    machine.steps(tuner, 2000)
    # After 20, 40, 80 and 160 seconds, and then every 300.
    assert machine.tried.count(2) - before == pytest.approx(4 + (machine.now - began - 300) / RETRY, abs=2)
    assert machine.threads == 1
    assert len(caplog.messages) == 1, "nothing has changed"
    machine.seconds = {2: 0.5, 1: 1.0}
    machine.steps(tuner, int(RETRY) + 3 * STEPS)
    assert machine.threads == 2


@pytest.mark.parametrize("why", ["cuda", "one thread", "deterministic", "chosen by a person"])
def test_nothing_is_tried(start, monkeypatch, why):
    machine, _ = start({1: 1.0} if why == "one thread" else {2: 1.0, 1: 0.1})
    if why == "chosen by a person":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.use_deterministic_algorithms(why == "deterministic")
    try:
        tuner = ThreadTuner("cuda" if why == "cuda" else "cpu", clock=lambda: machine.now)
    finally:
        torch.use_deterministic_algorithms(False)
    count = machine.threads
    machine.steps(tuner, 20)
    assert not tuner.active
    assert set(machine.tried) == {count}


def test_an_error_of_the_step_comes_through(start):
    _, tuner = start({2: 1.0, 1: 2.0})
    with pytest.raises(RuntimeError, match="here"), tuner.step():
        raise RuntimeError("here")
