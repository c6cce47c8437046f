"""Learning rate over the steps, and the average of the weights."""

import math

import pytest
import torch
from ignite.engine import Events

from pipelines.training.optimization import averaged, lr_schedule
from tests.pipelines.small import Tiny
from tests.pipelines.training.trainers import batches, trainer, weights


def rates(steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = lr_schedule(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_poly_falls_to_zero_by_its_power():
    found = rates(11, kind="poly", total_steps=10, power=0.9)
    assert found == pytest.approx([0.1 * (1 - i / 10) ** 0.9 for i in range(10)] + [0.0])


def test_cosine_after_a_linear_warm_up():
    found = rates(13, kind="cosine", total_steps=12, warmup_steps=4)
    assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert found[4:12] == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    assert found[12] == pytest.approx(0, abs=1e-9)


def test_wsd_is_constant_and_falls_straight_at_the_end():
    found = rates(13, kind="wsd", total_steps=12, warmup_steps=2, decay_share=0.4)
    assert found[:9] == pytest.approx([0.05] + [0.1] * 8)
    assert found[8:] == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])
    with pytest.raises(ValueError, match="decay_share is 0; give a share"):
        rates(1, kind="wsd", total_steps=3, decay_share=0)


def test_constant_stays_and_steps_beyond_the_end_stay_at_zero():
    assert rates(5, kind="constant", total_steps=3) == pytest.approx([0.1] * 5)
    assert rates(6, kind="poly", total_steps=3)[3:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("total", [1, 3, 5])
def test_a_training_shorter_than_its_warm_up_still_learns(total):
    found = rates(total, kind="cosine", total_steps=total, warmup_steps=10)
    assert all(0 < rate <= 0.1 for rate in found)
    assert found[-1] == pytest.approx(0.1)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear' is unknown; choose poly, cosine, wsd or constant"):
        rates(1, kind="linear", total_steps=3)


def test_the_average_is_that_of_its_formula():
    engine = trainer(batches(5, 2), epochs=4, ema=0.4, network=Tiny(3, dropout=0.0, norm="batch"))
    steps = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append(weights(e).double()))
    engine.run()
    expected = steps[0]
    for n, step in enumerate(steps[1:], start=1):
        decay = min(0.4, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * step
    found = torch.cat([p.flatten() for p in engine.average.parameters()])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        buffers = [dict(n.named_buffers())[f"body.1.{name}"] for n in (engine.average.module, engine.network)]
        assert torch.equal(*buffers), "running statistics are taken over, not averaged"
    assert averaged(engine.network, None) is None
