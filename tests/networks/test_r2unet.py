"""R2U-Net against the paper's equations, and the behaviour of its parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import R2UNet
from networks.layers import GROUP_NORM, group_count
from networks.recurrent import RecurrentConv

from .reference import convolve, deconvolve, max_pool, randomise, resize, saved_activations

STEPS = 2


def restated_recurrent_conv(x, p, name, dims, recurrence, groups, steps=STEPS):
    """Equations 1 and 2 of arXiv 1802.06955, literally: the tied form convolves the sum x + h."""
    conv = convolve[dims]

    def phi(y):
        return F.relu(F.group_norm(y, groups, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"]))

    w_f = p[f"{name}.conv.weight"]
    h = phi(conv(x, w_f, padding=1))
    for _ in range(steps):
        if recurrence == "tied":
            h = phi(conv(x + h, w_f, padding=1))
        else:
            h = phi(conv(x, w_f, padding=1) + conv(h, p[f"{name}.recurrent.weight"], padding=1))
    return h


def restated_unit(x, p, name, dims, recurrence, residual):
    groups = group_count(x.shape[1], 8)
    h = restated_recurrent_conv(x, p, f"{name}.layers.0", dims, recurrence, groups)
    h = restated_recurrent_conv(h, p, f"{name}.layers.1", dims, recurrence, groups)
    return x + p[f"{name}.scale"] * h if residual else h


def restated_network(x, p, dims, levels, recurrence, residual, upsample):
    """Figure 2 of the paper, with the skip connections concatenated and projected."""
    conv = convolve[dims]

    def unit(y, name):
        return restated_unit(y, p, f"{name}.unit", dims, recurrence, residual)

    def project(y, name):
        return conv(y, p[f"{name}.weight"], p[f"{name}.bias"])

    skips = [unit(project(x, "stem.project"), "stem")]
    for i in range(levels - 1):
        y = project(max_pool[dims](skips[-1], 2), f"encoder.{i}.project")
        skips.append(unit(y, f"encoder.{i}"))
    y = skips.pop()
    for i in range(levels - 1):
        skip = skips.pop()
        kernel = p[f"decoder.{i}.up.weight"]
        if upsample == "deconv":
            u = deconvolve[dims](y, kernel, stride=2)
        else:
            u = conv(resize(y, skip.shape[2:]), kernel)
        identity = torch.eye(u.shape[1], dtype=u.dtype).reshape(u.shape[1], u.shape[1], *(1,) * dims)
        projection = torch.cat([identity, p[f"decoder.{i}.lateral.weight"]], dim=1)
        y = conv(torch.cat([u, skip], dim=1), projection, p[f"decoder.{i}.lateral.bias"])
        y = unit(y, f"decoder.{i}")
    return conv(y, p["heads.0.weight"], p["heads.0.bias"])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("recurrence", ["tied", "separate"])
@pytest.mark.parametrize(("residual", "upsample"), [(True, "deconv"), (False, "nontrainable")])
def test_equals_the_equations(dims, recurrence, residual, upsample):
    network = R2UNet(
        dims, 2, 3, (4, 6, 8), STEPS, residual=residual, recurrence=recurrence, upsample=upsample
    )
    randomise(network).double()
    x = torch.randn(2, 2, *(8, 12, 4)[:dims], dtype=torch.float64)
    expected = restated_network(
        x, network.state_dict(keep_vars=True), dims, 3, recurrence, residual, upsample
    )
    actual = network(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    # The same function has the same gradients.
    parameters = list(network.parameters())
    weight = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * weight).sum(), parameters)
    theirs = torch.autograd.grad((expected * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_merged_projection_is_a_concatenation_and_a_projection(dims):
    """An arbitrary projection P = [P_u, P_s] of [U(x), s] is the sum this network computes, with P_u U as kernel."""
    c_in, c = 6, 4
    x = torch.randn(1, c_in, *(3,) * dims, dtype=torch.float64)
    skip = torch.randn(1, c, *(6,) * dims, dtype=torch.float64)
    up = torch.randn(c_in, c, *(2,) * dims, dtype=torch.float64)
    projection = torch.randn(c, 2 * c, dtype=torch.float64)
    bias = torch.randn(c, dtype=torch.float64)
    ones = (1,) * dims
    literal = convolve[dims](
        torch.cat([deconvolve[dims](x, up, stride=2), skip], dim=1), projection.reshape(c, 2 * c, *ones), bias
    )

    stage = R2UNet(dims, 1, 2, (c, c_in), norm=None).double().decoder[0]
    stage.unit = nn.Identity()
    with torch.no_grad():
        stage.up.weight.copy_(torch.einsum("oc,ic...->io...", projection[:, :c], up))
        stage.lateral.weight.copy_(projection[:, c:].reshape(c, c, *ones))
        stage.lateral.bias.copy_(bias)
    torch.testing.assert_close(stage(x, skip), literal, rtol=1e-10, atol=1e-10)


def test_steps_and_parameters():
    def count(**kwargs):
        return sum(p.numel() for p in R2UNet(2, 1, 2, (8, 16), **kwargs).parameters())

    assert count(num_steps=0) == count(num_steps=3)
    convs = 4 * 8 * 8 * 9 + 2 * 16 * 16 * 9
    assert count(recurrence="separate") == count() + convs
    assert count(recurrence="separate", num_steps=0) == count()
    # One batch norm (scale and shift) per step: two layers in each of two units of 8 and one of 16 channels.
    assert count(norm="batch", num_steps=3) == count(norm="batch", num_steps=0) + 3 * 2 * 2 * (2 * 8 + 16)


def discs(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of bright discs, and the discs."""
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    centre = 8 + 16 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 3 + 4 * torch.rand(count, 1, 1, generator=generator)
    label = ((grid - centre).square().sum(1).sqrt() < radius).long()
    image = label.unsqueeze(1) + torch.randn(count, 1, 32, 32, generator=generator)
    return image, label


def disagreement(network: R2UNet) -> float:
    """Relative difference of the logits of training and evaluation mode after a short training.

    The last passes train nothing, so that running statistics describe the final weights and what remains is what
    the network itself makes different.
    """
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        image, label = discs(8, generator)
        optimiser.zero_grad()
        loss = F.cross_entropy(network(image), label)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        for _ in range(30):
            network(discs(16, generator)[0])
        image, _ = discs(64, generator)
        training = network(image)
        return ((network.eval()(image) - training).norm() / training.norm()).item()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("recurrence", ["tied", "separate"])
@pytest.mark.parametrize("norm", [GROUP_NORM, "batch", "instance"])
def test_training_and_evaluation_mode_agree_after_training(norm, recurrence, residual):
    torch.manual_seed(0)
    network = R2UNet(2, 1, 2, (8, 16), STEPS, recurrence=recurrence, norm=norm, residual=residual)
    assert disagreement(network) < (0.05 if norm == "batch" else 1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_a_batch_norm_shared_by_the_steps_would_not_agree(residual):
    """Control of the test above: it detects a network whose norm statistics mix the steps."""
    torch.manual_seed(0)
    network = R2UNet(2, 1, 2, (8, 16), STEPS, norm="batch", residual=residual, layer_scale=None)
    for layer in network.modules():
        if isinstance(layer, RecurrentConv):
            layer.step_norms = nn.ModuleList([layer.norm] * STEPS)
    assert disagreement(network) > 0.1


@pytest.mark.parametrize("norm", [GROUP_NORM, "batch"])
def test_checkpointing_changes_nothing_but_memory(norm):
    torch.manual_seed(0)
    plain = R2UNet(3, 1, 2, (8, 16), norm=norm, dropout=0.2)
    checkpointed = R2UNet(3, 1, 2, (8, 16), norm=norm, dropout=0.2, checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 8, 8, 8)
    saved = {}
    for network in (plain, checkpointed):
        torch.manual_seed(1)
        saved[network] = saved_activations(lambda n=network: n(x), network)
        network(x).square().mean().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    plain_state = plain.state_dict()
    assert all(torch.equal(v, plain_state[k]) for k, v in checkpointed.state_dict().items())
    assert saved[checkpointed] < 0.35 * saved[plain]


@pytest.mark.parametrize("scripted", [False, True])
def test_a_size_that_does_not_fit_is_told_the_one_that_does(scripted):
    network = R2UNet(3, 1, 2, (4, 8, 8), strides=((2, 2, 1), 2)).eval()
    if scripted:
        network = torch.jit.script(network)
    message = r"strides \[4, 4, 2\] in all cannot take the size \[18, 16, 3\]: pad the input to \[20, 16, 4\]"
    with pytest.raises((ValueError, torch.jit.Error), match=message):
        network(torch.zeros(1, 1, 18, 16, 3))
    with pytest.raises((ValueError, torch.jit.Error), match="takes 5 axes, batch and channels first; got 4"):
        network(torch.zeros(1, 1, 16, 16))
    assert network(torch.zeros(1, 1, 20, 16, 6)).shape == (1, 2, 20, 16, 6)


def test_deep_supervision_heads_are_the_decoder_levels():
    network = randomise(R2UNet(2, 1, 3, (4, 6, 8, 8), deep_supervision=True))
    seen = {}
    for i, stage in enumerate(reversed(network.decoder)):
        stage.register_forward_hook(lambda _m, _i, y, i=i: seen.__setitem__(i, y))
    x = torch.randn(2, 1, 16, 24)
    stacked = network(x)
    assert stacked.shape == (2, 3, 3, 16, 24)
    for i, head in enumerate(network.heads):
        torch.testing.assert_close(stacked[:, i], resize(head(seen[i]), (16, 24)))
    torch.testing.assert_close(network.eval()(x), stacked[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims is 2 or 3"),
        ({"features": (8,)}, "two levels or more"),
        ({"num_steps": -1}, "0 or more; got -1"),
        ({"recurrence": "both"}, "recurrence is"),
        ({"upsample": "pixelshuffle"}, "upsample is"),
        ({"strides": (2,)}, r"strides needs 2 entries \(one between each two of features\); got 1"),
        ({"strides": ((2, 2, 2), 2)}, "tuple of 2 of them"),
        ({"dropout": 1.0}, r"probability in \[0, 1\)"),
        ({"deep_supervision": 3}, "more heads than the 2 levels"),
    ],
)
def test_refuses_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        R2UNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "features": (4, 8, 8), **arguments})
