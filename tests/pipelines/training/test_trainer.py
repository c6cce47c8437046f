"""The training step."""

import math

import pytest
import torch
from ignite.engine import Events

from pipelines.training.optimization import lr_schedule
from pipelines.training.trainer import NonFiniteLossError
from pipelines.utils.modules import unwrapped
from tests.pipelines.small import Tiny
from tests.pipelines.training.trainers import averages, batches, trainer, weights


def test_accumulated_batches_equal_a_big_one():
    big = trainer(batches(2, 6), scheduled=False)
    small = trainer(batches(6, 2), accumulation_steps=3)
    big.run()
    small.run()
    torch.testing.assert_close(weights(small), weights(big), atol=2e-6, rtol=1e-4)
    assert (small.state.iteration, big.state.iteration) == (12, 4)


def test_a_last_short_window_of_accumulation_counts_in_full():
    data = batches(5, 2)
    engine = trainer(data, epochs=1, accumulation_steps=3)
    engine.run()
    merged = [
        {"image": torch.cat([b["image"] for b in part]), "label": torch.cat([b["label"] for b in part])}
        for part in (data[:3], data[3:])
    ]
    reference = trainer(merged, epochs=1)
    reference.run()
    torch.testing.assert_close(weights(engine), weights(reference), atol=2e-6, rtol=1e-4)


def test_the_schedule_steps_with_the_optimiser_and_not_with_the_iterations():
    engine = trainer(batches(5, 2), epochs=2, accumulation_steps=3)
    engine.lr_scheduler = lr_schedule(engine.optimizer, "poly", 4, power=1.0)
    seen = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: seen.append(e.optimizer.param_groups[0]["lr"])
    )
    engine.run()
    expected = [0.1, 0.1, 0.075, 0.075, 0.05, 0.05, 0.05, 0.025, 0.025, 0.0]
    assert seen == pytest.approx(expected)


def test_gradients_are_scaled_down_to_the_norm():
    data = batches(1, 4)
    free, clipped = trainer(data, epochs=1), trainer(data, epochs=1, max_grad_norm=0.01)
    start = weights(free)
    free.run()
    clipped.run()
    assert float(free.grad_norm) == pytest.approx(float(clipped.grad_norm)), (
        "the norm before clipping is reported"
    )
    assert float((weights(free) - start).norm()) == pytest.approx(0.1 * float(free.grad_norm), rel=1e-3)
    assert float((weights(clipped) - start).norm()) == pytest.approx(0.1 * 0.01, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_half_precision_learns_as_full_precision_does(precision, dims):
    data = batches(4, 2, (8,) * dims)
    inside = []

    class Watch(Tiny):
        def forward(self, x):
            result = super().forward(x)
            inside.append(result.dtype)
            return result

    full = trainer(data, epochs=5, dims=dims)
    torch.manual_seed(0)
    half = trainer(
        data, epochs=5, dims=dims, precision=precision, network=Watch(3, dims, dropout=0, norm="group")
    )
    losses = {}
    for name, engine in (("full", full), ("half", half)):
        losses[name] = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e, name=name: losses[name].append(e.state.output["loss"])
        )
        engine.run()
    assert set(inside) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(loss.dtype == torch.float32 and not loss.requires_grad for loss in losses["half"])
    assert float(losses["half"][-1]) == pytest.approx(float(losses["full"][-1]), abs=0.05)
    assert float(losses["half"][-1]) < 0.8 * float(losses["half"][0])
    assert weights(half).dtype == torch.float32


def test_a_step_that_overflows_in_fp16_is_left_out():
    engine = trainer(batches(2, 2), epochs=1, precision="fp16", scheduled=True, ema=0.9)
    engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    start = weights(engine)
    engine.run()
    assert torch.equal(weights(engine), start)
    assert engine.lr_scheduler.last_epoch == 0
    assert int(engine.average.n_averaged) == 0
    assert engine.grad_scaler.get_scale() < 2.0**120


def test_a_second_run_goes_on_with_the_average():
    data = batches(4, 2)
    whole, parts = trainer(data, epochs=2, ema=0.9), trainer(data, epochs=1, ema=0.9)
    whole.run()
    parts.run()
    parts.state.max_epochs = 2
    parts.run()
    torch.testing.assert_close(weights(parts), weights(whole))
    torch.testing.assert_close(averages(parts), averages(whole))
    assert int(parts.average.n_averaged) == 8


def test_weights_put_in_between_two_runs_begin_a_new_average():
    """As in each round of a federated training: what was averaged before is not of these weights."""
    data = batches(4, 2)
    engine = trainer(data, epochs=1, lr=0.0, ema=0.9)
    engine.run()
    others = {name: value + 1 for name, value in engine.network.state_dict().items()}
    engine.network.load_state_dict(others)
    engine.state.max_epochs = 2
    engine.run()
    torch.testing.assert_close(averages(engine), weights(engine))
    assert int(engine.average.n_averaged) == 4


def test_rounds_beyond_the_end_of_the_schedule_are_said(caplog):
    engine = trainer(batches(2, 2), epochs=1, scheduled=True)
    engine.run()
    assert "learning rate" not in caplog.text
    before = weights(engine)
    engine.state.max_epochs = 2
    engine.run()
    assert torch.equal(weights(engine), before)
    assert "the learning rate has fallen to zero, so that steps after 2 change nothing" in caplog.text


def test_an_unknown_precision_is_refused_at_once():
    with pytest.raises(ValueError, match="'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        trainer(batches(1, 1), precision="half")


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_changes_nothing_but_the_memory(dims):
    data = batches(3, 2, (8,) * dims)
    seen = []

    class Watch(Tiny):
        def forward(self, x):
            # one channel is contiguous in both orders: the first convolution's output tells
            y = self.body[0](x)
            seen.append(
                y.is_contiguous(memory_format=torch.channels_last_3d if dims == 3 else torch.channels_last)
            )
            return self.body[1:](y)

    plain = trainer(data, dims=dims)
    torch.manual_seed(0)
    last = trainer(data, dims=dims, channels_last=True, network=Watch(3, dims, dropout=0, norm="group"))
    plain.run()
    last.run()
    assert all(seen)
    torch.testing.assert_close(weights(last), weights(plain), atol=1e-5, rtol=1e-4)


def test_a_compiled_network_learns_the_same():
    data = batches(2, 2, (4, 4, 4))
    plain = trainer(data)
    compiled = trainer(data, compile=True, compile_kwargs={"backend": "aot_eager"})
    assert hasattr(compiled.network, "_orig_mod")
    plain.run()
    compiled.run()
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-6, rtol=1e-5)
    assert not any(name.startswith("_orig_mod") for name in unwrapped(compiled.network).state_dict())


@pytest.mark.parametrize("interval", [1, 10])
def test_a_loss_that_is_not_finite_stops_and_names_the_cases(interval):
    data = batches(4, 2)
    data[2]["image"][1, 0, 0, 0, 0] = math.nan
    engine = trainer(data, epochs=3)
    engine.check_interval = interval  # 10 is what a GPU does
    with pytest.raises(
        NonFiniteLossError, match=r"nan at iteration 3 \(epoch 1\) .* case4, case5; .*learning_rate"
    ):
        engine.run()
    assert engine.state.iteration == (3 if interval == 1 else 4)
    if interval == 1:
        assert torch.isfinite(weights(engine)).all()
