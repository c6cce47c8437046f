"""Group norm, sum and ReLU in one step, against torch's in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from networks import group_norm
from networks.group_norm import GroupNorm, fuses, norm_act

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(group_norm, "LARGE", 0)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def norm_of(channels: int, groups: int, device: str = "cpu") -> GroupNorm:
    norm = GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm.to(device)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Distance to the true values, in parts of their size."""
    wanted = wanted.detach()
    return float((found.detach().double() - wanted).norm() / wanted.norm().clamp_min(1e-12))


def gradients(x, skip, norm, act, upstream, fused):
    """Result and gradients of ``act(norm(x) + skip)``: of `norm_act`, or of torch's own operations in float64."""
    kind = x.dtype if fused else torch.float64
    inputs = [v.detach().to(kind).requires_grad_() for v in (x, skip) if v is not None]
    parameters = [norm.weight, norm.bias]
    if not fused:
        parameters = [p.detach().double().requires_grad_() for p in parameters]
    if fused:
        y = norm_act(norm, act, *inputs)
    else:
        y = nn.functional.group_norm(inputs[0], norm.num_groups, *parameters, norm.eps)
        y = act(y + inputs[1] if len(inputs) > 1 else y)
    grads = torch.autograd.grad(y, [*inputs, *parameters], upstream.to(kind))
    return [y, *grads]


@pytest.mark.parametrize(("kind", "bound"), [(torch.bfloat16, 0.01), (torch.float32, 1e-5)])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["torch", "sums"])
@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.Identity()])
@pytest.mark.parametrize(
    ("channels", "spatial"), [(2, (5, 3, 7)), (8, (6, 4, 10)), (24, (8, 8)), (48, (4, 4, 4))]
)
def test_values_and_gradients_are_those_of_float64(
    monkeypatch, kind, bound, device, way, skipped, act, channels, spatial
):
    if device == "cuda" and kind == torch.float32:
        pytest.skip("torch's own is taken there")
    if way == "sums":
        monkeypatch.setattr(group_norm, "_by_torch", group_norm._by_sums)
    monkeypatch.setattr(group_norm, "CPU_PIECE", 512)  # several pieces, the last one smaller
    generator = torch.Generator().manual_seed(channels)
    shape = (2, channels, *spatial)
    x = channels_last((0.7 + 2 * torch.randn(shape, generator=generator)).to(kind)).to(device)
    skip = channels_last(torch.randn(shape, generator=generator).to(kind)).to(device) if skipped else None
    norm = norm_of(channels, max(1, channels // 4), device)
    # Values at the kink of the ReLU fall on either side of it by rounding alone: no gradient comes from there.
    sure = norm_act(norm.double(), nn.Identity(), x.double(), skip.double() if skipped else None).abs() > 0.05
    norm = norm.float()
    upstream = channels_last((torch.randn(shape, generator=generator).to(device) * sure).to(kind))
    assert fuses(norm, x)
    found = gradients(x, skip, norm, act, upstream, fused=True)
    wanted = gradients(x, skip, norm, act, upstream, fused=False)
    assert found[0].dtype == kind
    assert found[0].stride() == x.stride() == found[1].stride()
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < bound


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 12).map(lambda n: 2 * n),
    spatial=st.lists(st.integers(1, 9), min_size=2, max_size=3).filter(lambda s: max(s) > 1),
    mean=st.floats(-8, 8),
)
def test_statistics_by_sums_are_those_of_torch(batch, channels, spatial, mean):
    torch.manual_seed(0)
    norm = norm_of(channels, channels // 2)
    x = channels_last((mean + torch.randn(batch, channels, *spatial)).bfloat16())
    arguments = (x, norm.weight.detach(), norm.bias.detach(), norm.num_groups, norm.eps)
    for a, b in zip(group_norm._by_sums(*arguments), group_norm._by_torch(*arguments), strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.02, atol=0.04)


def test_nothing_but_the_map_and_the_result_is_kept():
    """An eager group norm and ReLU of a channels-last map would keep its reordered copies too."""
    x = channels_last(torch.randn(1, 8, 16, 16, 16).bfloat16())
    skip = torch.randn_like(x)
    norm = norm_of(8, 4)
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = norm_act(norm, nn.ReLU(inplace=True), x.requires_grad_(), skip.requires_grad_())
    y.sum().backward()
    assert sum(kept.values()) < 2.1 * x.untyped_storage().nbytes()


@pytest.mark.parametrize(
    "change",
    ["float64", "contiguous", "one channel", "no parameters", "batch norm", "wide", "wide float32", "small"],
)
def test_other_maps_and_norms_go_to_torch(monkeypatch, change):
    x = channels_last(torch.randn(2, 8, 4, 4, 4).bfloat16())
    norm: nn.Module = norm_of(8, 4)
    if change == "float64":
        x, norm = x.double(), norm.double()
    elif change == "contiguous":
        x = x.contiguous()
    elif change == "one channel":
        x, norm = x[:, :1], norm_of(1, 1)
    elif change == "no parameters":
        norm = GroupNorm(4, 8, affine=False)
    elif change == "wide":
        x, norm = channels_last(torch.randn(2, 32, 4, 4, 4).bfloat16()), norm_of(32, 2)
    elif change == "wide float32":
        x, norm = channels_last(torch.randn(2, 32, 4, 4, 4)), norm_of(32, 4)
    elif change == "small":
        monkeypatch.setattr(group_norm, "LARGE", x.numel() + 1)
    else:
        norm = nn.BatchNorm3d(8)
    assert not fuses(norm, x)
    relu = nn.ReLU()
    torch.testing.assert_close(norm_act(norm, relu, x, x), relu(norm(x) + x))


@pytest.mark.parametrize(("first", "second"), itertools.permutations(["autocast", "bfloat16"]))
def test_autocast_changes_nothing(first, second):
    found = {}
    for name in (first, second):
        torch.manual_seed(0)
        x = channels_last(torch.randn(1, 8, 6, 6, 6).bfloat16()).requires_grad_()
        norm = norm_of(8, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            y = norm_act(norm, nn.ReLU(), x)
        y.float().square().sum().backward()
        found[name] = [y, x.grad, norm.weight.grad, norm.bias.grad]
    for a, b in zip(found["autocast"], found["bfloat16"], strict=True):
        assert torch.equal(a, b)
