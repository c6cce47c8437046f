"""What is measured: the config's own trainer, with values put in and random patches instead of a dataset."""

import itertools
import time

import pytest
import torch
from monai.bundle import ConfigParser

from networks.errors import NetworkError
from pipelines.planning.plan_file import PlanError
from pipelines.planning.step_process import MOST, STEPS, measured, patches, prepared, why
from pipelines.training.trainer import SegTrainer
from tests.conftest import REPOSITORY

KNOBS = {
    "patch_size": [16, 24],
    "spacing": [1, 1],
    "batch_size": 3,
    "features": [4, 8],
    "dataset_dir": "/absent",
    "precision": "fp32",
    "channels_last": False,
}


@pytest.fixture
def config():
    return ConfigParser.load_config_file(REPOSITORY / "bundles" / "r2unet" / "train.json")


def test_the_network_follows_the_data(config):
    network = prepared(config, KNOBS, channels=3, classes=5).get_parsed_content("network")
    assert network.eval()(torch.zeros(1, 3, 16, 24)).shape == (1, 5, 16, 24)
    assert config["network_def"]["in_channels"] == "$@data.num_channels"  # the given config is as it was


def test_what_is_open_and_does_not_matter_is_filled_in(config):
    assert {config[name] for name in ("learning_rate", "epochs", "patch_size")} == {"auto"}
    parser = prepared(config, KNOBS, channels=1, classes=2)
    assert parser["learning_rate"] > 0
    open_knobs = {name: value for name, value in KNOBS.items() if name != "patch_size"}
    with pytest.raises(PlanError, match="patch_size is 'auto'"):
        prepared(config, open_knobs, channels=1, classes=2)


def test_a_config_that_trains_nothing(config):
    del config["train"]
    with pytest.raises(PlanError, match="no train#trainer"):
        prepared(config, KNOBS, channels=1, classes=2)


def test_steps_are_those_of_the_trainer(config, monkeypatch):
    # Otherwise the trainer first tries several numbers of threads, with steps of their own.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []

    step = SegTrainer._step

    def recording(self, engine):
        step(self, engine)
        seen.append((tuple(engine.state.output["image"].shape), self.max_grad_norm, self.average is not None))

    monkeypatch.setattr(SegTrainer, "_step", recording)
    cost = measured(prepared(config, KNOBS | {"accumulation": 2}, 1, 3), 1, 3, seconds=600)
    assert STEPS < len(seen) <= MOST + 1
    assert set(seen) == {((3, 1, 16, 24), 1.0, True)}
    assert 0 < cost.window_seconds < cost.seconds


def test_a_step_takes_as_long_as_most_do(config, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    step, seconds = SegTrainer._step, itertools.cycle([0.3, 0.3, 0.0])

    def pausing(self, engine):
        time.sleep(next(seconds))
        step(self, engine)

    monkeypatch.setattr(SegTrainer, "_step", pausing)
    assert measured(prepared(config, KNOBS, 1, 3), 1, 3, seconds=600).seconds > 0.3


def test_without_time_one_step_is_timed(config, monkeypatch):
    steps = []
    step = SegTrainer._step
    monkeypatch.setattr(SegTrainer, "_step", lambda self, engine: steps.append(step(self, engine)))
    assert measured(prepared(config, KNOBS, 1, 3), 1, 3, seconds=0).seconds > 0
    assert len(steps) == 2


def test_patches_that_the_device_augments(config):
    config["device"] = "$torch.device('cpu')"
    plain = patches(prepared(config, KNOBS, 2, 3), 2, 3)
    assert [batch["image"].shape for batch in plain] == [(3, 2, 16, 24)]
    parser = prepared(config, KNOBS | {"augment_on": "device"}, 2, 3)
    for batch in patches(parser, 2, 3):
        images, labels = batch["deferred"].apply(batch["image"], batch["label"])
        assert images.shape == (3, 2, 16, 24)
        assert labels.shape == (3, 1, 16, 24)
        assert int(labels.max()) <= 2
    assert measured(parser, 2, 3, seconds=0).seconds > 0


def chained(*errors):
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), "there is too little memory for it"),
        (
            chained(RuntimeError("Failed to evaluate"), torch.OutOfMemoryError("CUDA out of memory")),
            "there is too little memory for it",
        ),
        (chained(RuntimeError("at\nid"), NetworkError("too\nsmall")), "too small"),
        (
            chained(RuntimeError("at id"), TypeError("no such\nkeyword")),
            "TypeError: no such keyword",
        ),
    ],
)
def test_why(error, wanted):
    assert why(error) == wanted
