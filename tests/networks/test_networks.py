"""What every network has to do. A new network or variant gets all of these tests for one line in `NETWORKS`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from networks import R2UNet, UPerNet
from networks.encoders import ENCODERS, EncoderSpec
from networks.layers import GroupNorm, make_conv

CLASSES = 3
TINY = EncoderSpec(bottleneck=True, blocks=(1, 2, 1, 1), groups=2, group_width=32, stem=8)


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    """An encoder of every part and few channels: these tests are about structure, not size."""
    monkeypatch.setitem(ENCODERS, "tiny", TINY)


@dataclass(frozen=True)
class Entry:
    build: Callable[..., nn.Module]
    # A spatial size that fits, the step to the next, and one that does not (None: every size is handled).
    size: int
    step: int
    odd: int | None


def r2unet(dims: int, **kwargs) -> nn.Module:
    return R2UNet(dims, 1, CLASSES, **{"features": (4, 8, 8), **kwargs})


def upernet(dims: int, **kwargs) -> nn.Module:
    return UPerNet(dims, 1, CLASSES, **{"encoder": "tiny", "fpn_channels": 8, **kwargs})


NETWORKS = {
    "r2unet": Entry(r2unet, 16, 4, 18),
    "r2unet-separate-batch": Entry(
        lambda d, **k: r2unet(d, recurrence="separate", norm="batch", upsample="nontrainable", **k), 16, 4, 18
    ),
    "runet": Entry(lambda d, **k: r2unet(d, residual=False, **k), 16, 4, 18),
    "upernet": Entry(upernet, 64, 32, None),
    "upernet-refine-batch": Entry(lambda d, **k: upernet(d, refine=True, norm="batch", **k), 64, 32, None),
}
EXPORTED = ["r2unet", "r2unet-separate-batch", "upernet", "upernet-refine-batch"]

every = pytest.mark.parametrize("name", NETWORKS)
both = pytest.mark.parametrize("dims", [2, 3])


def make(name: str, dims: int, seed: int = 0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name].build(dims, **kwargs)


def images(name: str, dims: int, batch: int = 1, steps: int = 0) -> torch.Tensor:
    entry = NETWORKS[name]
    side = entry.size + steps * entry.step
    if dims == 3 and entry.size > 32:
        side = 48 + steps * entry.step
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, 1, *(side,) * dims, generator=generator)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Relative to the size of the expected logits as a whole."""
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    error = (actual.double() - expected.double()).norm() / expected.double().norm()
    assert error < tolerance, f"relative error {error:.2e}"


@every
@both
def test_logits_have_the_shape_of_the_image(name, dims):
    network = make(name, dims)
    x = images(name, dims, batch=2)
    x = x[:, :, : NETWORKS[name].size // 2]
    for mode in (True, False):
        y = network.train(mode)(x)
        assert y.shape == (2, CLASSES, *x.shape[2:])
        assert y.dtype == x.dtype
        assert y.isfinite().all()


@every
@both
def test_odd_sizes(name, dims):
    network = make(name, dims).eval()
    entry = NETWORKS[name]
    if entry.odd is None:
        size = (37, 50, 33)[:dims]
        assert network(torch.randn(1, 1, *size)).shape == (1, CLASSES, *size)
    else:
        fitting = (entry.odd + entry.step - 1) // entry.step * entry.step
        with pytest.raises(ValueError, match=rf"pad the input to \[{', '.join([str(fitting)] * dims)}\]"):
            network(torch.zeros(1, 1, *(entry.odd,) * dims))


@every
@both
def test_gradients_reach_every_parameter(name, dims):
    network = make(name, dims, deep_supervision=True)
    y = network(images(name, dims, batch=2))
    (y * torch.randn_like(y)).sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead
    assert all(p.grad.isfinite().all() for p in network.parameters())


@every
@both
def test_deep_supervision(name, dims):
    network = make(name, dims, deep_supervision=2, dropout=0.0)
    x = images(name, dims, batch=2)
    stacked = network(x)
    assert stacked.shape == (2, 2, CLASSES, *x.shape[2:])
    assert not torch.allclose(stacked[:, 0], stacked[:, 1])
    assert network.eval()(x).shape == (2, CLASSES, *x.shape[2:])


@every
@both
def test_equal_seeds_give_equal_networks_and_outputs(name, dims):
    first, second, other = make(name, dims), make(name, dims), make(name, dims, seed=1)
    state = second.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())
    x = images(name, dims)
    with torch.no_grad():
        y = first.eval()(x)
        assert torch.equal(y, first(x))
        assert torch.equal(y, second.eval()(x))
        assert not torch.allclose(y, other.eval()(x))


@every
@both
def test_batch_members_do_not_mix_in_evaluation(name, dims):
    network = make(name, dims).eval()
    x = images(name, dims, batch=2)
    with torch.no_grad():
        close(network(x)[1:], network(x[1:]), 1e-5)


@every
@both
def test_state_dict_round_trip(name, dims):
    network, other = make(name, dims), make(name, dims, seed=1)
    x = images(name, dims, batch=2)
    network(x)  # moves the running statistics, where there are any
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(x), network.eval()(x))


@every
@both
def test_script(name, dims):
    network = make(name, dims, deep_supervision=2, checkpointing=True)
    scripted = torch.jit.script(network)
    x = images(name, dims, batch=2)
    close(scripted(x), make(name, dims, deep_supervision=2)(x), 1e-5)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network.eval()), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    with torch.no_grad():
        close(loaded(x), network(x), 1e-5)
        larger = images(name, dims, steps=1)
        close(loaded(larger), network(larger), 1e-5)


def dynamic_shapes(name: str, dims: int) -> dict:
    """Any batch, any size that fits; UPerNet from a deepest map of two voxels a side.

    The exporter of torch before 2.13 keeps a program to odd or to even sides of a pooled map.
    """
    if NETWORKS[name].odd is None:
        recent = torch.torch_version.TorchVersion(torch.__version__) >= (2, 13)
        sides = [
            Dim(f"side{i}", min=33, max=512) if recent else 16 * Dim(f"side{i}", min=3, max=32)
            for i in range(dims)
        ]
    else:
        sides = [NETWORKS[name].step * Dim(f"side{i}", min=2, max=128) for i in range(dims)]
    return {0: Dim("batch", min=1, max=64), **{i + 2: side for i, side in enumerate(sides)}}


@pytest.mark.parametrize("name", EXPORTED)
@both
def test_export_with_dynamic_shapes(name, dims):
    network = make(name, dims).eval()
    program = torch.export.export(
        network, (images(name, dims, batch=2),), dynamic_shapes={"x": dynamic_shapes(name, dims)}
    )
    with torch.no_grad():
        for x in (images(name, dims, batch=2), images(name, dims, steps=1)):
            close(program.module()(x), network(x), 1e-5)


@pytest.mark.parametrize(
    ("name", "dims", "dynamic"),
    [
        ("r2unet", 2, True),
        ("r2unet", 3, False),
        ("r2unet-separate-batch", 3, True),
        ("upernet", 2, False),
        ("upernet-refine-batch", 3, False),
        pytest.param("upernet", 2, True, marks=pytest.mark.slow),
        pytest.param("upernet", 3, True, marks=pytest.mark.slow),
    ],
)
def test_onnx(name, dims, dynamic):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = make(name, dims).eval()
    x = images(name, dims, batch=2)
    shapes = {"x": dynamic_shapes(name, dims)} if dynamic else None
    program = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for image in [x, images(name, dims, steps=1)] if dynamic else [x]:
        (y,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        assert y.dtype == np.float32
        with torch.no_grad():
            close(torch.from_numpy(y), network(image), 1e-4)


@pytest.mark.parametrize("name", EXPORTED)
@both
def test_compile_is_one_graph_with_the_same_gradients(name, dims):
    """Tracing and autograd of torch.compile, in training with all heads, without the code generator."""
    torch._dynamo.reset()
    network = make(name, dims, deep_supervision=2).double()
    x = images(name, dims, batch=2).double()
    expected = network(x)
    weight = torch.randn_like(expected)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad((expected * weight).sum(), parameters)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    actual = compiled(x)
    close(actual, expected, 1e-10)
    # All at once: a shift before a batch norm has no gradient but rounding, and no relative error of its own.
    recomputed = torch.autograd.grad((actual * weight).sum(), parameters)
    close(torch.cat([g.flatten() for g in recomputed]), torch.cat([g.flatten() for g in gradients]), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
@both
def test_compile_with_inductor(name, dims):
    torch._dynamo.reset()
    network = make(name, dims).eval()
    x = images(name, dims)
    with torch.no_grad():
        close(torch.compile(network, dynamic=False)(x), network(x), 1e-4)


@every
@both
def test_channels_last(name, dims):
    network = make(name, dims)
    x = images(name, dims, batch=2)
    expected = network(x)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    close(make(name, dims).to(memory_format=form)(x.to(memory_format=form)), expected, 1e-4)


@every
@both
def test_bfloat16(name, dims):
    network = make(name, dims)
    x = images(name, dims, batch=2)
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = make(name, dims)(x)
    close(mixed, expected, 0.05)
    mixed.float().square().mean().backward()
    pure = make(name, dims).bfloat16()(x.bfloat16())
    assert pure.dtype == torch.bfloat16
    close(pure, expected, 0.05)


@pytest.mark.parametrize("channels", [8, 64])
@both
def test_group_norm_of_channels_last_maps_in_bf16(channels: int, dims: int) -> None:
    """Narrow maps are reordered for speed: the same values and gradients as torch's, in the same layout."""
    torch.manual_seed(0)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    ours, torchs = GroupNorm(4, channels).bfloat16(), nn.GroupNorm(4, channels)
    with torch.no_grad():
        for norm in (ours, torchs):
            norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
            norm.bias.copy_(torch.linspace(-1, 1, channels))
    x = (3 + 2 * torch.randn(2, channels, *(6,) * dims)).bfloat16().contiguous(memory_format=form)
    upstream = torch.randn(x.shape).bfloat16().contiguous(memory_format=form)
    inputs = [x.clone().requires_grad_(), x.float().contiguous().requires_grad_()]
    found, wanted = (norm(i) for norm, i in zip((ours, torchs), inputs, strict=True))
    assert found.is_contiguous(memory_format=form)
    assert found.dtype == torch.bfloat16
    found.backward(upstream)
    wanted.backward(upstream.float())
    for a, b in [
        (found, wanted),
        (inputs[0].grad, inputs[1].grad),
        (ours.weight.grad, torchs.weight.grad),
        (ours.bias.grad, torchs.bias.grad),
    ]:
        torch.testing.assert_close(a.float(), b, rtol=0.03, atol=0.03 * float(b.detach().abs().max()))


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 4, 4), (1, 6, 1), (4, 2, 4), (3, 3, 3), (6, 1), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradient_in_bf16_on_maps_smaller_than_the_kernel(size: tuple[int, ...], stride: int) -> None:
    """torch's own convolution gives garbage here on a CPU, which then spreads as NaN through a training."""
    torch.manual_seed(0)
    conv = make_conv(len(size), 16, 16, stride=stride)
    x = torch.randn(2, 16, *size)
    expected = conv(x)
    upstream = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, conv.weight, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(x)
    (gradient,) = torch.autograd.grad(found, conv.weight, upstream.to(found.dtype))
    torch.testing.assert_close(gradient.float(), wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))
