"""Recurrent convolutions and the residual unit made of them."""

import pytest
import torch

from networks.layers import GROUP_NORM
from networks.recurrent import RecurrentConv, RecurrentResidualUnit

from .reference import randomise, saved_activations

STEPS = 2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", [GROUP_NORM, "instance", "batch", None])
def test_conv_of_the_sum_is_the_sum_of_convs_and_saves_less(dims, norm):
    layer = randomise(RecurrentConv(dims, 8, STEPS, "tied", norm)).double()
    x = torch.randn(2, 8, *(8,) * dims, dtype=torch.float64, requires_grad=True)

    def literal(x):
        h = layer.act(layer.norm(layer.conv(x)))
        for k in range(STEPS):
            norm_k = layer.norm if layer.shared_norm else layer.step_norms[k]
            h = layer.act(norm_k(layer.conv(x + h)))
        return h

    torch.testing.assert_close(layer(x), literal(x), rtol=1e-9, atol=1e-9)
    ours, theirs = (saved_activations(lambda f=f: f(x), layer) for f in (layer, literal))
    assert ours < theirs


def test_plain_sum_without_layer_scale():
    unit = randomise(RecurrentResidualUnit(2, 4, layer_scale=None))
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(unit(x), x + unit.layers(x))
    assert not hasattr(unit, "scale")
    assert torch.all(RecurrentResidualUnit(2, 4, layer_scale=0.3).scale == 0.3)
