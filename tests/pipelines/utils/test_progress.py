"""How far work is: when a line is said, and what it says."""

import io
import logging
import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.utils.enums import CommonKeys as Keys

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.training.handlers import Progress, Validation
from pipelines.utils import progress
from pipelines.utils.progress import Steps, Voice
from pipelines.utils.progress_times import SECONDS, Beyond, Intervals
from tests.e2e.commands import REPOSITORY
from tests.pipelines import small
from transforms.preprocess import Preprocess


class Desk:
    """A voice with a clock that goes on when it is told to; `said` holds (second, line)."""

    def __init__(self, first=20.0, then=30.0, start=datetime(2026, 1, 31, 14, 0)):
        self.time = 0.0
        self.said = []
        self.voice = Voice(
            clock=lambda: self.time,
            now=lambda: start + timedelta(seconds=self.time),
            say=lambda line: self.said.append((round(self.time, 3), line)),
            every=Intervals(first, then),
            timer=False,
        )

    def steps(self, *words, **options):
        return Steps(*words, voice=self.voice, **options)

    def wait(self, seconds):
        """Time passes, and the timer looks each second, as its thread would."""
        end = self.time + seconds
        while end - self.time > 1:
            self.time += 1
            self.voice.tick()
        self.time = end
        self.voice.tick()

    def work(self, steps, count, seconds):
        for _ in range(count):
            self.wait(seconds)
            steps.step()

    @property
    def lines(self):
        return [line for _, line in self.said]


def test_what_ends_before_the_first_line_is_due_says_nothing():
    desk = Desk()
    with desk.steps(19, "step") as steps:
        desk.work(steps, 19, 1)
    assert desk.said == []


def test_the_first_line_comes_in_20_seconds_and_then_one_every_30():
    desk = Desk()
    with desk.steps(480, "step") as steps:
        desk.work(steps, 100, 2)
    assert [second for second, _ in desk.said] == [20, 50, 80, 110, 140, 170, 200]
    # 470 steps of 2 s are 940 s.
    assert desk.lines[0] == "step 9 of 480, 2.00 s per step, done at 14:16 (in 16 min)"
    assert desk.lines[-1] == "step 99 of 480, 2.00 s per step, done at 14:16 (in 13 min)"


def test_a_step_that_takes_long_is_not_silent():
    desk = Desk()
    with desk.steps(10, "case") as steps:
        desk.work(steps, 2, 100)
        desk.wait(95)
    assert [second for second, _ in desk.said] == [20, 50, 80, 110, 140, 170, 200, 230, 260, 290]
    assert desk.lines[:3] == [f"still in case 1 of 10, {t} s so far" for t in (20, 50)] + [
        "still in case 1 of 10, 1 min so far"
    ]
    # Of the first alone, less what of the second is done: 9 * 100 - 10.
    assert desk.lines[3] == "case 1 of 10, 100 s per case (warm-up included), done at 14:16 (in 15 min)"
    assert desk.lines[-1].startswith("case 2 of 10, 100 s per case, done at 14:16")


def test_a_step_much_longer_than_the_others_is_said_to_go_on():
    desk = Desk()
    with desk.steps(4, "case") as steps:
        desk.work(steps, 3, 10)
        desk.wait(50)
    assert desk.lines[-1] == "still in case 4 of 4, 50 s so far, 10.0 s per case", "nobody knows when it ends"


def test_the_first_step_does_not_spoil_the_estimate():
    desk = Desk()
    with desk.steps(100, "step") as steps:
        desk.work(steps, 1, 19)
        desk.work(steps, 9, 1)
        desk.wait(22)
        desk.time += 0.5
    assert desk.lines[0].startswith("step 1 of 100, 19.0 s per step (warm-up included)")
    steps.voice.every = Intervals(0, 0)
    assert "1.00 s per step, " in steps.line()


def test_the_estimate_goes_by_the_last_minutes():
    desk = Desk()
    with desk.steps(1000, "step") as steps:
        desk.work(steps, 300, 1)
        assert steps.pace == pytest.approx(1)
        desk.work(steps, 40, 5)
        assert steps.pace == pytest.approx(5, rel=0.05)


def test_parallel_work_leaves_out_the_first_of_each_worker():
    desk = Desk()
    with desk.steps(20, "case", warm_up=4) as steps:
        desk.wait(12)
        steps.step(4)
        assert steps.pace == 3, "all that is known"
        desk.work(steps, 2, 2)
        assert steps.pace == 2


def test_across_midnight_the_date_is_given():
    desk = Desk(start=datetime(2026, 1, 31, 23, 50))
    with desk.steps(1000, "step") as steps:
        desk.work(steps, 30, 1)
        assert desk.lines[0].endswith("done at 2026-02-01 00:06 (in 16 min)")


def test_resumed_work_counts_what_was_done_but_not_its_time():
    desk = Desk()
    with desk.steps(480, "step", initial=400) as steps:
        desk.work(steps, 11, 2)
    assert desk.lines == ["step 409 of 480, 2.00 s per step, done at 14:02 (in 2 min)"]


def test_zero_says_every_step_and_infinity_none():
    desk = Desk(0, 0)
    with desk.steps(3, "step") as steps:
        desk.time += 1
        steps.step()
        desk.time += 2
        steps.step()
        steps.step()
    assert [line.split(",")[0] for line in desk.lines] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert "done" not in desk.lines[-1]
    silent = Desk(float("inf"), float("inf"))
    with silent.steps(3, "step") as steps:
        silent.work(steps, 3, 1000)
    assert silent.said == []


def test_work_without_steps_says_how_long_it_takes():
    desk = Desk()
    with desk.steps(None, "downloading the demo CT"):
        desk.wait(51)
    assert desk.said == [
        (20, "downloading the demo CT, 20 s so far"),
        (50, "downloading the demo CT, 50 s so far"),
    ]


def cohort(desk, cases, windows, seconds):
    with desk.steps(cases, "case") as outer:
        for _ in range(cases):
            with desk.steps(windows, "window") as inner:
                desk.work(inner, windows, seconds)
            outer.step()


def test_quick_cases_of_a_cohort_say_nothing_of_their_windows():
    desk = Desk()
    cohort(desk, 30, 5, 1)
    assert [second for second, _ in desk.said] == [20, 50, 80, 110, 140]
    assert not [line for line in desk.lines if "window" in line]
    assert desk.lines[0].startswith("case 3 of 30, 5.00 s per case, done at")


def test_a_long_case_tells_of_its_windows_and_of_all():
    desk = Desk()
    cohort(desk, 3, 100, 1)
    assert [second for second, _ in desk.said] == list(range(20, 300, 30))
    assert desk.lines[0] == (
        "in case 1 of 3: window 19 of 100, 1.00 s per window, windows done at 14:01 (in 1 min)"
    )
    # 25 s into the second: 75 to go in it, and another case of 100 s.
    assert desk.said[4] == (
        140,
        "in case 2 of 3: window 39 of 100, 1.00 s per window, windows done at 14:03 (in 1 min), "
        "all done at 14:05 (in 3 min)",
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_only_work_without_steps_says_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    desk = Desk()
    with desk.steps(10, "step") as outer:
        desk.wait(3600)
        outer.step()
        assert desk.said == []
        with desk.steps(None, "waiting for MLflow"):
            desk.wait(21)
        desk.wait(100)
    assert desk.said == [(3620, "in step 2 of 10: waiting for MLflow, 20 s so far")]
    assert "| 1/10 [" in sys.stderr.getvalue()


def test_work_that_an_error_left_behind_speaks_no_more():
    desk = Desk()
    kept = []
    with desk.steps(2, "case") as outer:
        for _ in range(2):
            inner = desk.steps(100, "window")
            inner.__enter__()
            # As a generator does that a traceback keeps alive.
            kept.append(inner)
            desk.wait(40)
            outer.step()
            assert desk.voice.work == [outer]
        kept[0].__exit__()
    assert desk.voice.work == []


def test_the_end_of_an_error_is_the_end_of_its_lines():
    desk = Desk()
    with pytest.raises(ZeroDivisionError), desk.steps(2, "case"), desk.steps(2, "window"):
        raise ZeroDivisionError
    desk.wait(100)
    assert desk.said == []
    assert desk.voice.work == []


def test_time_beyond_the_steps_counts():
    desk = Desk(start=datetime(2026, 1, 31, 12, 0))
    with desk.steps(10, "step", beyond=lambda: Beyond(3600.0, "2 validations")) as steps:
        desk.work(steps, 2, 10)
        desk.wait(5)
        assert steps.line().endswith("done at 13:01 (in 1 h 01 min) and 2 validations")
        desk.work(steps, 8, 10)
        steps.pause("validation")
        desk.wait(50)
        assert steps.line() == (
            "step 10 of 10, then validation for 50 s, 10.6 s per step, done at 13:02 (in 1 h 00 min) and 2 validations"
        )


def test_only_the_first_rank_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    desk = Desk(0, 0)
    with desk.steps(2, "step") as steps:
        steps.step()
    assert desk.said == []


# -- the thread ------------------------------------------------------------------------------------------------


def progress_threads():
    return [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize("fail", [False, True])
def test_the_thread_speaks_while_a_step_goes_on_and_ends_with_the_work(fail):
    spoken = threading.Event()
    voice = Voice(say=lambda line: spoken.set(), every=Intervals(0.01, 0.01))
    try:
        with Steps(2, "step", voice=voice):
            # No step is ever done here: it is the thread that speaks.
            assert spoken.wait(300)
            assert len(progress_threads()) == 1
            if fail:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fail
    assert progress_threads() == []


def test_the_thread_leaves_random_states_alone():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before, lines = states(), []
    done = threading.Event()

    def say(line):
        lines.append(line)
        if len(lines) == 5:
            done.set()

    with Steps(2, "step", voice=Voice(say=say, every=Intervals(0.001, 0.001))) as steps:
        steps.step()
        assert done.wait(300)
    assert states() == before


FORKS = """
import os, sys, threading
from pipelines.utils.progress import VOICE, Steps
with Steps(2, "step") as steps:
    for _ in range(200):
        child = os.fork()
        if child == 0:
            # What the parent was saying meanwhile must not hold anything up here.
            assert VOICE.work == []
            print("child", file=sys.stderr, flush=True)
            with Steps(1, "step") as own:
                own.step()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
print("whole")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_are_not_held_up():
    result = subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=REPOSITORY,
        env={**os.environ, SECONDS: "0.0001"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "whole\n"
    assert "still in step 1 of 2" in result.stderr


def test_without_a_log_lines_go_to_stderr_and_with_one_to_the_log(monkeypatch, capsys, caplog):
    monkeypatch.setattr(progress.logger, "propagate", False)
    progress._say("a line")
    assert capsys.readouterr().err == "a line\n"
    monkeypatch.setattr(progress.logger, "propagate", True)
    with caplog.at_level(logging.INFO, "pipelines.utils.progress"):
        progress._say("another")
    assert [record.getMessage() for record in caplog.records] == ["another"]
    assert capsys.readouterr().err == ""


# -- a training ------------------------------------------------------------------------------------------------


def slow_validator(desk, folder, seconds):
    """A real validator of one case that takes so long by the clock of a desk."""
    preprocess = Preprocess()
    return SegEvaluator(
        "cpu",
        volume_loader(VolumeDataset([small.write_ct(folder, "a")], preprocess)),
        small.Oracle(3),
        preprocess,
        ["lung", "liver"],
        SlidingWindow((16, 16, 16)),
        on_prediction=lambda item, labels: desk.wait(seconds),
    )


def test_a_training_counts_the_time_of_its_validations(tmp_path, monkeypatch):
    desk = Desk(0, 0)
    monkeypatch.setattr(progress, "VOICE", desk.voice)

    def step(engine, batch):
        desk.time += 10
        return {Keys.LOSS: torch.tensor(1.0)}

    trainer = Engine(step)
    Validation(2, slow_validator(desk, tmp_path, 600)).attach(trainer)
    Progress().attach(trainer)
    trainer.run([1] * 5, max_epochs=4)
    lines = [line for line in desk.lines if line.startswith("step")]
    assert lines[:2] == [
        "step 1 of 20, 10.0 s per step (warm-up included), done at 14:03 (in 3 min) and 2 validations",
        "step 2 of 20, 10.0 s per step, done at 14:03 (in 3 min) and 2 validations",
    ]
    after = next(line for line in lines if line.startswith("step 11 of 20"))
    # 9 steps of 10 s and another validation of 600 s.
    assert after == "step 11 of 20, 10.0 s per step, done at 14:23 (in 12 min)"
    assert lines[-1] == "step 20 of 20, 10.0 s per step, done at 14:23 (in 10 min)"
    assert desk.voice.work == []


def test_a_training_that_fails_says_no_more(monkeypatch):
    desk = Desk(0, 0)
    monkeypatch.setattr(progress, "VOICE", desk.voice)

    def fail(engine, batch):
        assert desk.voice.work
        raise ZeroDivisionError

    trainer = Engine(fail)
    Progress().attach(trainer)
    with pytest.raises(ZeroDivisionError):
        trainer.run([1], max_epochs=1)
    assert desk.voice.work == []


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setenv(SECONDS, "0")


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "pipelines.utils.progress"]


def test_a_resumed_training_counts_on(tmp_path, monkeypatch, caplog, every_step):
    path = small.config(tmp_path / "run", small.write_dataset(tmp_path / "data"), checkpoint_minutes=0)
    monkeypatch.setenv("SMALL_STOP_AT", "5")
    with caplog.at_level(logging.INFO, "pipelines.utils.progress"):
        with pytest.raises(RuntimeError, match="workflow"):
            small.run(path)
        assert progress.VOICE.work == []
        before = [line.split(",")[0] for line in said(caplog) if line.startswith("step ")]
        assert before == [f"step {n} of 12" for n in range(1, 5)]
        caplog.clear()
        monkeypatch.delenv("SMALL_STOP_AT")
        small.run(path)
    after = [line for line in said(caplog) if line.startswith("step ")]
    assert [line.split(",")[0] for line in after] == [f"step {n} of 12" for n in range(5, 13)]
    assert "(warm-up included)" in after[0], "the pace of the first process is not that of this one"
    assert progress.VOICE.work == []


def test_every_part_of_a_training_says_how_far_it_is(tmp_path, caplog, every_step):
    path = small.config(
        tmp_path / "run", small.write_dataset(tmp_path / "data"), train__dataset__progress=True
    )
    with caplog.at_level(logging.INFO, "pipelines.utils.progress"):
        small.run(path, epochs=1)
    lines = said(caplog)
    assert [line.split(",")[0] for line in lines if line.startswith("preprocessing")] == [
        f"preprocessing case {n} of 3" for n in (1, 2, 3)
    ]
    for start in ("checking headers of case 1 of 4", "fingerprint of case 1 of 4", "step 3 of 3, "):
        assert any(line.startswith(start) for line in lines), start
    windows = [
        line for line in lines if line.startswith("after step 3 of 3: in validation case 1 of 1: window ")
    ]
    assert len(windows) > 1
    assert any(line.startswith("after step 3 of 3: validation case 1 of 1, ") for line in lines)


def test_a_training_is_the_same_whatever_is_said(tmp_path, monkeypatch):
    weights = []
    for seconds in ("inf", "0", "0.001"):
        monkeypatch.setenv(SECONDS, seconds)
        folder = tmp_path / seconds
        dataset = small.write_dataset(folder / "data")
        small.run(small.config(folder / "run", dataset, num_workers=1, epochs=2))
        weights.append(torch.load(folder / "run" / "models" / "model.pt", weights_only=True))
    for other in weights[1:]:
        assert all(torch.equal(weights[0][key], other[key]) for key in weights[0])
