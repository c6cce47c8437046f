"""Convolutions on a CPU: the same function whatever kernel it takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from networks import convolution
from networks.convolution import make_conv, misses_onednn

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def plain(conv: nn.Module) -> nn.Conv3d:
    """torch's own layer with the same weights, in float64."""
    assert isinstance(conv, nn.Conv3d)
    other = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        bias=conv.bias is not None,
    ).double()
    other.load_state_dict(conv.state_dict())
    return other


def kernels_of(conv: nn.Module, x: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        conv(x)
    return {event.key for event in seen.key_averages()}


@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([2, 3, 8]),
    width=st.sampled_from([2, 8]),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    bias=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
)
def test_halves_are_the_whole(channels, width, size, stride, bias, layout):
    torch.manual_seed(0)
    conv = make_conv(3, channels, width, 3, stride, bias=bias).to(memory_format=layout)
    x = torch.randn(1, channels, *size).contiguous(memory_format=layout)
    axes = [axis for axis in range(2, 5) if convolution._rows(conv, x, axis) % 2 == 0]
    reference = plain(conv)
    there = x.double().requires_grad_()
    wanted = reference(there)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    for axis in axes:
        here = x.detach().requires_grad_()
        conv.zero_grad()
        found = convolution._as_halves(conv, here, axis)
        found.backward(upstream.float())
        if layout == torch.contiguous_format or not x.is_contiguous():
            # Not only contiguous: torch's norms also ask for the stride of the batch.
            assert found.stride() == torch.empty_like(wanted).contiguous(memory_format=layout).stride()
        pairs = [(found, wanted), (here.grad, there.grad)]
        pairs += [(p.grad, q.grad) for p, q in zip(conv.parameters(), reference.parameters(), strict=True)]
        for a, b in pairs:
            assert a.shape == b.shape
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.sampled_from([2, 8]),
    size=st.tuples(*[st.integers(2, 9)] * 3),
    stride=st.tuples(*[st.integers(1, 2)] * 3),
    kernel=st.sampled_from([3, 5]),
    bias=st.booleans(),
    inner=st.booleans(),
)
def test_the_padded_weight_gradient_is_the_weight_gradient(
    batch, channels, size, stride, kernel, bias, inner
):
    torch.manual_seed(0)
    layout = torch.channels_last_3d
    conv = make_conv(3, channels, 4, kernel, stride, bias=bias).to(memory_format=layout)
    x = torch.randn(batch, channels, *size).contiguous(memory_format=layout)
    reference = plain(conv)
    there, here = x.double().requires_grad_(inner), x.detach().requires_grad_(inner)
    wanted = reference(there)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    found = convolution._PaddedWeightGradient.apply(here, conv.weight, conv.bias, conv.stride, conv.padding)
    found.backward(upstream.float())
    pairs = [(found, wanted), *([(here.grad, there.grad)] if inner else [])]
    pairs += [(p.grad, q.grad) for p, q in zip(conv.parameters(), reference.parameters(), strict=True)]
    for a, b in pairs:
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "change", [None, "AVX512", "contiguous", "no gradient", "frozen", "kernel", "one channel"]
)
def test_where_the_weight_gradient_is_padded(change, monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(
        torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if change == "AVX512" else "AVX2"
    )
    conv = make_conv(3, 1 if change == "one channel" else 4, 4, 1 if change == "kernel" else 3)
    x = torch.randn(2, conv.in_channels, 6, 6, 6)
    if change != "contiguous":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    conv.weight.requires_grad_(change != "frozen")
    with torch.set_grad_enabled(change != "no gradient"):
        assert convolution.pads_slowly(conv, x) == (change is None)
        torch.testing.assert_close(conv(x), plain(conv)(x.double()).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(16, 16, 16), (7, 16, 15)])
def test_a_small_map_of_one_sample_is_computed_by_onednn(layout, size):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    conv = make_conv(3, 32, 32).to(memory_format=layout)
    x = torch.randn(1, 32, *size).contiguous(memory_format=layout)
    assert "aten::mkldnn_convolution" in kernels_of(conv, x)
    # If this fails, torch has become fast by itself and the workaround can go.
    assert "aten::slow_conv3d_forward" in kernels_of(plain(conv).float(), x)


@pytest.mark.parametrize(
    "change",
    ["batch", "large", "groups", "kernel", "float64", "bfloat16", "autocast", "little work", "no oneDNN"],
)
def test_other_convolutions_are_torchs_own(change, monkeypatch):
    conv, x = make_conv(3, 32, 32), torch.randn(1, 32, 16, 16, 16)
    if torch.backends.mkldnn.is_available():
        assert misses_onednn(conv, x)
    if change == "batch":
        x = torch.cat([x, x])
    elif change == "large":
        x = torch.randn(1, 32, 32, 32, 4)
    elif change == "groups":
        conv = make_conv(3, 32, 32, groups=2)
    elif change == "kernel":
        conv = make_conv(3, 32, 32, kernel_size=1)
    elif change == "float64":
        conv, x = conv.double(), x.double()
    elif change == "bfloat16":
        x = x.bfloat16()
    elif change == "little work":
        conv, x = make_conv(3, 4, 4), x[:, :4]
    elif change == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        assert not misses_onednn(conv, x)


def test_compilers_and_exporters_see_one_convolution():
    conv, x = make_conv(3, 32, 32), torch.randn(1, 32, 16, 16, 16)
    with torch.no_grad():
        wanted = conv(x)
        traced, exported = torch.jit.trace(conv, x), torch.export.export(conv, (x,)).module()
        for other in (torch.jit.script(conv), traced, exported):
            torch.testing.assert_close(other(x), wanted, rtol=1e-4, atol=1e-4)
    assert str(traced.graph).count("aten::_convolution") == 1
    assert "unfold" not in str(exported.graph)
