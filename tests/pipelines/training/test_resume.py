"""Whether a training goes on, begins anew, or is refused."""

import pytest

from pipelines.training.resume import (
    CHANGED,
    NEW,
    SAME,
    ResumeError,
    can_resume,
    differences,
    resume_mode,
    training_identity,
)

WORK = {"learning_rate": "0.004", "network_def.features": "[8, 16]"}
OTHER = {"learning_rate": "0.002", "network_def.features": "[8, 16]"}


def state(epoch, finished=False, early=False, inside=0, epochs=4):
    return {
        "work": WORK,
        "finished": finished,
        "stopped_early": early,
        "epochs": epochs,
        "epoch": epoch,
        "inside": inside,
    }


@pytest.mark.parametrize(
    ("found", "work", "epochs", "mode", "stops", "expected"),
    [
        (None, WORK, 4, SAME, False, False),
        (state(2), WORK, 4, SAME, False, True),
        (state(0, inside=3), WORK, 4, SAME, False, True),
        (state(2), WORK, 4, NEW, False, False),
        (state(2), OTHER, 4, SAME, False, "learning_rate: 0.004 in the checkpoint, 0.002 now"),
        (state(2), OTHER, 4, CHANGED, False, True),
        (state(2), WORK, 2, SAME, False, True),
        (state(2, inside=1), WORK, 2, SAME, False, "past epoch 2"),
        (state(3), WORK, 2, SAME, False, "past epoch 2"),
        (state(4), WORK, 4, SAME, False, True),  # killed before it could say that it is finished
        (state(4, finished=True), WORK, 4, SAME, False, False),
        (state(4, finished=True), WORK, 3, SAME, False, False),
        (state(4, finished=True), WORK, 6, SAME, False, True),
        (state(4, finished=True), OTHER, 6, SAME, False, False),
        (state(4, finished=True), OTHER, 6, CHANGED, False, True),
        (state(3, finished=True, early=True), WORK, 4, SAME, True, False),
        (state(3, finished=True, early=True), WORK, 4, SAME, False, True),
        (state(3, finished=True, early=True), WORK, 6, SAME, True, False),
    ],
)
def test_every_case(found, work, epochs, mode, stops, expected):
    def decide():
        return can_resume(found, work, epochs, mode, lambda state: stops, "models")

    if isinstance(expected, bool):
        assert decide() is expected
        return
    with pytest.raises(ResumeError, match="--resume new") as caught:
        decide()
    assert expected in str(caught.value)


def test_differences_are_named_as_on_the_command_line_and_knobs_come_first():
    found = differences(WORK | {"a.b": "x" * 100}, OTHER | {"z": "1"})
    assert found == [
        "learning_rate: 0.004 in the checkpoint, 0.002 now",
        "z: nothing in the checkpoint, 1 now",
        f"a#b: {'x' * 57}... in the checkpoint, nothing now",
    ]


def test_many_differences_stay_one_sentence():
    now = {f"knob{i}": "1" for i in range(30)}
    with pytest.raises(ResumeError) as caught:
        can_resume(state(2), now, 4, SAME, lambda state: False, "models")
    assert str(caught.value).count("in the checkpoint,") == 8
    assert "and 24 more" in str(caught.value)


def test_what_makes_a_training_what_it_is(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    flat = {"learning_rate": "1", "epochs": "3", "tracking.uri": "x", "patience": "2", "train.epochs": "3"}
    work = training_identity(flat, "digest")
    assert {"learning_rate", "train.epochs"} < work.keys()
    assert not {"epochs", "tracking.uri", "patience"} & work.keys()
    assert differences(work, training_identity(flat, "digest")) == []
    (phrase,) = differences(work, training_identity(flat, "other"))
    assert phrase == "the files of the dataset (digest): digest in the checkpoint, other now"
    monkeypatch.setenv("WORLD_SIZE", "2")
    (phrase,) = differences(work, training_identity(flat, "digest"))
    assert phrase == "the number of processes: 1 in the checkpoint, 2 now"


@pytest.mark.parametrize(
    ("value", "mode"),
    [(True, SAME), (False, NEW), ("new", NEW), ("changed", CHANGED), (1, None), ("same", None)],
)
def test_the_knob(value, mode):
    if mode is None:
        with pytest.raises(ResumeError, match="resume is"):
            resume_mode(value)
    else:
        assert resume_mode(value) == mode


def test_a_keyword_left_out_is_the_default_of_its_component():
    component = {"a._target_": "pipelines.SlidingWindow", "a.roi_size": "[8]"}
    said = component | {"a.overlap": "0.5", "a.mirror_axes": "[]"}
    assert differences(said, component) == differences(component, said) == []
    for earlier, now in ((said, component), (component, said)):
        (phrase,) = differences(earlier, now | {"a.overlap": "0.7"})
        assert phrase == "a#overlap: 0.5 in the checkpoint, 0.7 now"
    (phrase,) = differences(component, component | {"a.roi_size": "[9]", "b": "0.5"})[1:]
    assert phrase == "a#roi_size: [8] in the checkpoint, [9] now"
    assert differences({}, {"b._target_": "no.such_class"}) != []


def test_a_training_of_one_channel_goes_on_since_bundles_follow_the_data():
    component = {"preprocessing._target_": "pipelines.Preprocess", "preprocessing.window": "@window"}
    earlier = component | {"network_def.in_channels": "1"}
    now = component | {
        "network_def.in_channels": "$@data.num_channels",
        "preprocessing.channels": "$@data.num_channels",
        "preprocessing.normalization": "@normalization",
        "normalization": "null",
    }
    assert differences(earlier, now) == []
    (phrase,) = differences(earlier, now | {"normalization": '["zscore"]'})
    assert phrase == 'normalization: nothing in the checkpoint, ["zscore"] now'
    assert len(differences(earlier | {"network_def.in_channels": "3"}, now)) == 1
