"""What a config says wrongly and MONAI would let pass."""

import sys

import pytest

from pipelines.config.errors import ConfigError, user_error
from tests.pipelines.config.test_executed import parsed


def check(monkeypatch, **changes):
    """Run `initialize` of a config as a bundle run does."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    parser = parsed(**changes)
    parser.get_parsed_content("imports")
    parser.get_parsed_content("initialize")


def findings(monkeypatch, **changes):
    with pytest.raises(RuntimeError) as caught:
        check(monkeypatch, **changes)
    error = user_error(caught.value)
    assert isinstance(error, ConfigError)
    return str(error)


def test_a_good_config_passes(monkeypatch):
    check(monkeypatch)
    check(monkeypatch, train__extra={"_target_": "SimpleInferer"})
    check(monkeypatch, train__extra={"_target_": "dict", "anything": 1})
    check(monkeypatch, _desc_knobs="What a person turns", train__extra={"_desc_": "of a component"})
    check(monkeypatch, train__extra={"_target_": "torch.nn.Conv2d", "in_channels": 1, "_disabled_": True})
    check(
        monkeypatch, train__extra={"_target_": "pipelines.SlidingWindow", "roi_size": [8], "progress": True}
    )


def test_an_id_may_lose_its_use_to_a_value_that_a_component_is_given(monkeypatch):
    """But an argument's name is not an id: whoever gives it at the top has not changed the component."""
    check(monkeypatch, num_workers=0, train__x={"_target_": "pipelines.patch_loader", "num_workers": 2})
    component = {"_target_": "pipelines.SegTrainer", "max_grad_norm": 1.0, "max_epochs": "@epochs"}
    for name in ("max_grad_norm", "max_epochs"):
        assert f"nothing uses '{name}'" in findings(monkeypatch, **{name: 5, "train__x": component})


def test_an_id_without_a_value_needs_no_use(monkeypatch):
    check(monkeypatch, input=None)
    assert "nothing uses 'input'" in findings(monkeypatch, input="scan.nii.gz")


def test_an_evaluation_on_top_of_a_training_leaves_knobs_without_use(monkeypatch):
    """As MONAI's tools load [train.json, evaluate.json]."""
    check(monkeypatch, patience=3, evaluating=["$1"], training=["$1"])
    assert "nothing uses 'patience'" in findings(monkeypatch, patience=3)


def test_another_network_need_not_use_what_the_bundles_own_one_does(monkeypatch):
    """But what somebody gives has to be used."""
    check(monkeypatch, features="auto")
    assert "nothing uses 'features'" in findings(monkeypatch, features=[4, 8])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 5}, "nothing uses 'epoch', did you mean 'epochs'?"),
        ({"zzz": 5}, "nothing uses 'zzz'; known are .*dataset_dir, .*epochs"),
        ({"dataset_dir": "/data/a#b"}, "'dataset_dir' is '/data/a::b': MONAI reads '#' as its own separator"),
        ({"train__where": "/data/a#b"}, "'train.where' is '/data/a::b'"),
        ({"fold": "None"}, r"'fold' is the text 'None'; write --fold '\$None'"),
        ({"epochs": "true"}, r"'epochs' is the text 'true'; write --epochs '\$True'"),
        (
            {"network_def__feature": 3},
            "'network_def#feature': .*Tiny takes no 'feature', did you mean 'features'?",
        ),
        (
            {"train__trainer": {"_target_": "pipelines.SegTrainer", "max_epoch": 3}},
            "'train#trainer#max_epoch': pipelines.SegTrainer takes no 'max_epoch', did you mean 'max_epochs'?",
        ),
        (
            {"train__x": [{"_target_": "SimpleInferer", "size": 3}]},
            "'train#x#0#size': SimpleInferer takes no 'size'",
        ),
        (
            {"train__x": {"_target_": "networks.NoSuchNet"}},
            "'train#x' names 'networks.NoSuchNet', which does not exist",
        ),
        ({"train__x": {"_target_": "NoSuchThing"}}, "'train#x' names 'NoSuchThing', which does not exist"),
    ],
)
def test_what_monai_lets_pass_is_found(monkeypatch, changes, message):
    text = findings(monkeypatch, **changes)
    assert text.startswith("the config cannot run: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(text)


def test_all_findings_come_at_once(monkeypatch):
    text = findings(monkeypatch, epoch=5, fold="None", train__x={"_target_": "NoSuchThing"})
    assert text.count("; ") >= 2
    assert "'epoch'" in text
    assert "'fold'" in text
    assert "NoSuchThing" in text
