import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.muon import Muon, is_matrix, orthogonal

RATE = 0.01


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1),
        torch.nn.GroupNorm(2, 8),
        torch.nn.Conv3d(8, 16, 3, padding=1),
        torch.nn.ConvTranspose3d(16, 8, 2, stride=2),
        torch.nn.Conv3d(8, 2, 1),
    )


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def steps(model, optimizer, count, first=0):
    for number in range(first, first + count):
        gradients(model, number)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_only_kernels_between_many_channels_are_matrices():
    names = [name for name, p in network().named_parameters() if is_matrix(p, 128)]
    assert names == ["2.weight", "3.weight"]
    assert not is_matrix(torch.nn.Conv2d(16, 16, 3, groups=16).weight, 128)  # depthwise
    assert not is_matrix(torch.nn.Linear(16, 16).weight, 128)
    assert is_matrix(torch.nn.Conv2d(64, 128, 3).weight, 128)
    assert not is_matrix(torch.nn.Conv2d(64, 129, 3).weight, 128)
    assert is_matrix(torch.nn.Conv2d(8, 129, 3).weight, 128)  # 72 rows


@pytest.mark.parametrize("kernel", [(16, 8, 3, 3, 3), (32, 8, 3, 3), (64, 8, 2, 2)])
def test_steps_of_matrices_are_those_of_torch(kernel):
    # torch's Muon takes matrices only, and computes in bfloat16.
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(kernel))
    flat = torch.nn.Parameter(weights.detach().flatten(1).clone())
    start = flat.detach().clone()
    options = {"lr": RATE, "weight_decay": 0.1}
    ours = Muon([weights], **options)
    theirs = torch.optim.Muon([flat], momentum=0.95, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(5):
        weights.grad = torch.randn(kernel)
        flat.grad = weights.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    moved, expected = weights.detach().flatten(1) - start, flat.detach() - start
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_other_parameters_move_as_with_adamw():
    model, other = network(), network()
    options = {"lr": RATE, "weight_decay": 0.1}
    found = steps(model, Muon(model.parameters(), **options), 3)
    expected = steps(other, torch.optim.AdamW(other.parameters(), **options), 3)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) != is_matrix(ours, 128)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 80), rank=st.integers(1, 40), seed=st.integers(0, 99))
def test_orthogonal_is_the_iteration_in_double_precision(rows, columns, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    matrix = left @ torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found = orthogonal(matrix.float()[None])[0]
    torch.testing.assert_close(found, x.float(), atol=2e-4, rtol=0)


def test_all_directions_of_a_gradient_become_equally_long():
    torch.manual_seed(0)
    matrix = torch.randn(2, 16, 432) * torch.logspace(0, -1.5, 16)[:, None]
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.3
    assert values.min() > 0.6


def test_a_gradient_of_zero_moves_nothing():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Muon(model.parameters(), lr=RATE)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gradients_and_parameters_without_one_are_left():
    model = network()
    optimizer = Muon(model.parameters(), lr=RATE)
    gradients(model, 0)
    frozen = model[2].weight
    frozen.grad = None
    kept = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = frozen.detach().clone()
    optimizer.step()
    assert torch.equal(frozen, before)
    for expected, parameter in zip(kept, model.parameters(), strict=True):
        assert (expected is None) == (parameter.grad is None)
        assert expected is None or torch.equal(expected, parameter.grad)


def test_the_memory_format_makes_no_difference():
    model, other = network(), network().to(memory_format=torch.channels_last_3d)
    found = steps(model, Muon(model.parameters(), lr=RATE), 3)
    expected = steps(other, Muon(other.parameters(), lr=RATE), 3)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_restored_optimiser_goes_on_as_before(fused):
    model = network()
    optimizer = Muon(model.parameters(), lr=RATE, fused=fused)
    steps(model, optimizer, 3)
    other = copy.deepcopy(model)
    restored = Muon(other.parameters(), lr=1.0, fused=fused)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(
        steps(model, optimizer, 2, first=3), steps(other, restored, 2, first=3), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_training_of_adamw_can_go_on_with_it():
    model = network()
    earlier = torch.optim.AdamW(model.parameters(), lr=RATE)
    steps(model, earlier, 3)
    optimizer = Muon(model.parameters(), lr=RATE)
    optimizer.load_state_dict(earlier.state_dict())
    assert all(torch.isfinite(p).all() for p in steps(model, optimizer, 2, first=3))


def test_adamw_refuses_to_go_on_with_a_training_of_it():
    model = network()
    earlier = Muon(model.parameters(), lr=RATE)
    steps(model, earlier, 1)
    with pytest.raises(KeyError):
        torch.optim.AdamW(model.parameters()).load_state_dict(earlier.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_whose_gradients_overflow_is_skipped(fused):
    model = network()
    optimizer = Muon(model.parameters(), lr=RATE, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(()))
    before = [p.detach().clone() for p in model.parameters()]
    gradients(model, 0)
    model[2].weight.grad[0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
