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
    # As they are where a plan is to be made; they do not matter for a step.
    return raw | dict.fromkeys(("epochs", "learning_rate", "patches_per_epoch", "warmup_steps"), "auto")


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


def test_what_takes_too_much_memory_is_ended_and_the_next_is_measured():
    timer = StepTimer(config("r2unet"), channels=1, classes=3)
    huge = {"patch_size": [320, 320, 320], "spacing": [1, 1, 1]}
    costs = timer.measure([SMALL, huge, FLAT], seconds=600, memory=GB)
    assert [cost is None for cost in costs] == [False, True, False]
    assert timer.reasons == [None, "it needs more than 1.0 GB of memory", None]


def test_without_time_the_first_is_measured():
    timer = StepTimer(config("r2unet"), channels=1, classes=3)
    first, second = timer.measure([SMALL, FLAT], seconds=0, memory=GB)
    assert first is not None
    assert second is None
    assert timer.reasons == [None, "there was no time to measure it"]


def test_a_candidate_that_the_system_ends_is_none_and_the_next_is_measured():
    raw = config("r2unet")
    raw["imports"].append("$import os")
    timer = StepTimer(raw, channels=1, classes=3)
    # What Linux does where memory is short.
    ended = {"network": "$os.kill(os.getpid(), 9)"}
    first, second = timer.measure([ended, FLAT], seconds=600, memory=GB)
    assert first is None
    assert "memory is short" in timer.reasons[0]
    assert second is not None


@pytest.mark.parametrize(
    ("device", "words"),
    [("$1 / 0", "steps cannot be measured: .*evaluate"), ("$os._exit(3)", "ended with status 3")],
)
def test_a_process_that_dies_is_one_sentence(device, words):
    raw = config("r2unet") | {"device": device}
    raw["imports"].append("$import os")
    with pytest.raises(PlanError, match=words) as caught:
        StepTimer(raw, channels=1, classes=3).measure([SMALL], seconds=60, memory=GB)
    assert len(str(caught.value).splitlines()) == 1
