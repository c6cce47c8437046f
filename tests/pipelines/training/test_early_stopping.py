"""Stopping where the validation Dice no longer grows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.trained_model import CARD
from pipelines.training import workflow as module
from pipelines.training.checkpoints import LAST, load_state
from pipelines.training.early_stopping import EarlyStopping, StoppingError
from tests.pipelines import small
from tests.pipelines.training.stopped import error_of, unfinished


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
        ({"patience": 0}, "patience is 0; give a number of validations, 1 or more"),
        ({"patience": 2, "min_delta": -1}, "min_delta is -1; give an increase in Dice"),
    ],
)
def test_early_stopping_that_cannot_be_is_refused(dataset, tmp_path, settings, said):
    assert said in str(error_of(small.config(tmp_path, dataset, **settings)))


DICE = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=20)


def by_hand(dice, patience, min_delta):
    """After how many validations a training ends that looks at them one by one; None if it does not."""
    best, waiting = None, 0
    for count, value in enumerate(dice, start=1):
        better = value == value and (best is None or value - best > min_delta)
        best, waiting = (value, 0) if better else (best, waiting + 1)
        if waiting == patience:
            return count
    return None


@given(DICE, st.integers(1, 5), st.sampled_from([0.0, 0.125]))
def test_it_ends_where_a_count_by_hand_ends(dice, patience, min_delta):
    dice = [round(value * 16) / 16 if value == value else value for value in dice]  # differences are exact
    stopping = EarlyStopping(patience, min_delta)
    reached = [count for count in range(len(dice) + 1) if stopping.reached(dice[:count])]
    expected = by_hand(dice, patience, min_delta)
    assert (reached[0] if reached else None) == expected
    assert not EarlyStopping(None).reached(dice)


@pytest.mark.parametrize("settings", [(0, 0.0), (-1, 0.0), (1, -0.1), (1, float("nan"))])
def test_what_has_no_meaning_is_refused(settings):
    with pytest.raises(StoppingError, match=r"patience is|min_delta is"):
        EarlyStopping(*settings)
