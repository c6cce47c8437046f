"""When a validation comes, and the progress that a person sees."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from pipelines.training.handlers import Progress, Validation, keep_losses, mean_loss
from tests.pipelines.evaluators import evaluator
from tests.pipelines.small import write_ct


def engine(*handlers):
    result = Engine(lambda engine, batch: {Keys.LOSS: torch.tensor(float(batch))})
    for handler in handlers:
        handler.attach(result)
    return result


@pytest.mark.parametrize(
    ("interval", "epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (10, 3, [3]), (3, 3, [3]), (0, 4, [])],
)
def test_validation_comes_every_few_epochs_and_at_the_end(tmp_path, interval, epochs, expected):
    validator = evaluator([write_ct(tmp_path, "a")])
    seen = []
    validator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.epoch))
    engine(Validation(interval, validator)).run([1, 2], max_epochs=epochs)
    assert seen == expected
    if expected:
        assert validator.state.metrics == {"val_mean_dice": 1.0, "val_dice_lung": 1.0, "val_dice_liver": 1.0}


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match="val_interval is -1"):
        Validation(-1)


def test_without_cases_there_is_nothing_to_validate():
    validator = evaluator([])
    engine(Validation(1, validator), Progress(validator)).run([1.0], max_epochs=2)
    assert validator.state.cases == []
    assert validator.state.epoch == 0, "nothing takes this for a validation of an epoch"
    engine(Validation(1)).run([1.0])


def test_without_a_terminal_progress_is_a_line_per_epoch(tmp_path, caplog):
    validator = evaluator([write_ct(tmp_path, "a")])
    with caplog.at_level(logging.INFO, "pipelines.training.handlers"):
        engine(Validation(2, validator), Progress(validator)).run([1.0, 3.0], max_epochs=3)
    lines = [record.getMessage() for record in caplog.records if record.name == "pipelines.training.handlers"]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("loss 2.0000" in line for line in lines)
    assert ["validation Dice 1.0000" in line for line in lines] == [False, True, True]


def test_only_the_first_rank_speaks(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, "pipelines.training.handlers"):
        engine(Progress()).run([1.0])
    assert not [record for record in caplog.records if record.name == "pipelines.training.handlers"]


def test_an_error_passes_through_the_progress():
    def fail(engine, batch):
        raise ZeroDivisionError

    broken = Engine(fail)
    Progress().attach(broken)
    with pytest.raises(ZeroDivisionError):
        broken.run([1])


def test_the_losses_of_an_epoch_begin_anew_or_go_on_with_those_before():
    kept, result = [], engine()
    keep_losses(result)
    keep_losses(result)
    result.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: kept.append([float(x) for x in e.state.losses])
    )
    result.run([1.0, 3.0, 5.0], max_epochs=2)
    assert kept == [[1.0, 3.0, 5.0]] * 2
    later = engine(Progress())
    later.add_event_handler(Events.EPOCH_COMPLETED, lambda e: kept.append([float(x) for x in e.state.losses]))
    later.state.losses = [torch.tensor(7.0)]
    later.load_state_dict({"iteration": 4, "epoch_length": 3, "max_epochs": 3})
    later.run([1.0, 3.0, 5.0], max_epochs=3)
    assert [len(losses) for losses in kept[2:]] == [3, 3]
    assert kept[2][0] == 7.0


def test_the_mean_loss_is_in_double_precision():
    losses = [torch.tensor(value) for value in (1.0, 2.0, 4.5)]
    assert mean_loss(losses) == 2.5
