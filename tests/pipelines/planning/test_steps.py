"""Steps are measured in another process: their cost, what has none and why, and that nothing else is touched."""

import pytest
from monai.bundle import ConfigParser

from pipelines.planning.plan_file import PlanError
from pipelines.planning.steps import StepTimer
from tests.conftest import REPOSITORY

GB = 10**9
SMALL = {"patch_size": [16, 16, 16], "spacing": [1, 1, 1]}
LARGE = {"patch_size": [64, 64, 48], "spacing": [1, 1, 1], "batch_size": 2}
FLAT = {"patch_size": [32, 32], "spacing": [1, 1]}


def config(bundle):
    raw = ConfigParser.load_config_file(REPOSITORY / "bundles" / bundle / "train.json")
    # What is "auto" beside these does not matter for a step.
    given = {"features": [8, 16, 32, 64], "batch_size": 1}
    return raw | {name: value for name, value in given.items() if name in raw}


@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_costs(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timer = StepTimer(config(bundle), channels=2, classes=3)
    wrong = SMALL | {"network_def#absent": 1}
    small, large, flat, none = timer.measure([SMALL, LARGE, FLAT, wrong], seconds=600, memory=4 * GB)
    for cost in (small, large, flat):
        assert cost is not None
        assert 0 < cost.window_seconds < cost.seconds
    assert 0 < small.memory < large.memory < 4 * GB
    assert small.seconds < large.seconds
    assert none is None
    assert timer.reasons[:3] == [None, None, None]
    assert "absent" in timer.reasons[3]
    # No checkpoint, no patch store, no dataset, no run.
    assert list(tmp_path.iterdir()) == []


def test_after_a_candidate_that_was_ended_the_next_is_measured():
    raw = config("r2unet")
    raw["imports"].append("$import os")
    timer = StepTimer(raw, channels=1, classes=3)
    huge = {"patch_size": [256, 256, 256], "spacing": [1, 1, 1]}
    # What Linux does where memory is short.
    ended = SMALL | {"network": "$os.kill(os.getpid(), 9)"}
    costs = timer.measure([huge, ended, FLAT], seconds=600, memory=GB // 2)
    assert [cost is None for cost in costs] == [True, True, False]
    assert timer.reasons[0] == "it needs more than 0.5 GB of memory"
    assert "memory is short" in timer.reasons[1]


def test_without_time_the_first_is_measured():
    timer = StepTimer(config("r2unet"), channels=1, classes=3)
    first, second = timer.measure([SMALL, FLAT], seconds=0, memory=GB)
    assert first is not None
    assert second is None
    assert timer.reasons == [None, "there was no time to measure it"]


@pytest.mark.parametrize(
    ("device", "words"),
    [("$1 / 0", "steps cannot be measured: ZeroDivisionError"), ("$os._exit(3)", "ended with status 3")],
)
def test_a_process_that_dies_is_one_sentence(device, words):
    raw = config("r2unet") | {"device": device}
    raw["imports"].append("$import os")
    with pytest.raises(PlanError, match=words) as caught:
        StepTimer(raw, channels=1, classes=3).measure([SMALL], seconds=60, memory=GB)
    assert len(str(caught.value).splitlines()) == 1
