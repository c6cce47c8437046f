"""Strides that fit a patch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks import R2UNet, UPerNet, strides_for


@pytest.mark.parametrize(
    ("size", "spacing", "expected"),
    [
        ((96, 80, 80), 4.0, [[2, 2, 2]] * 4),
        ((112, 96, 40), (3.0, 3.0, 8.0), [[2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]),
        ((160, 160, 16), (0.7, 0.7, 5.0), [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]),
        # the thick axis is the one that must not be halved, wherever it lies
        ((16, 128, 128), (6.0, 1.0, 1.0), [[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]),
        ((64, 16, 64), None, [[2, 2, 2], [2, 2, 2], [2, 1, 2], [2, 1, 2]]),
        ((32, 32), (8.0, 8.0, 8.0), [[2, 2], [2, 2], [2, 2], [1, 1]]),
        ((64, 64, 64), (2.0, None, 2.0), [[2, 2, 2]] * 4),
    ],
)
def test_known_plans(size, spacing, expected):
    assert strides_for(size, spacing, 4) == expected


@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(0.2, 12)), min_size=2, max_size=3),
    st.integers(1, 6),
)
def test_no_axis_becomes_too_short_or_overtakes_the_others(axes, count):
    size, spacing = zip(*axes, strict=True)
    plan = strides_for(size, spacing, count)
    assert len(plan) == count
    total = [math.prod(axis) for axis in zip(*plan, strict=True)]
    for n, factor in zip(size, total, strict=True):
        assert factor == 1 or -(-n // factor) >= 4
    # an axis that was halved was at no time as long as twice the shortest voxel that could still grow
    for a, b in [(a, b) for a in range(len(size)) for b in range(len(size)) if total[a] > 1]:
        if -(-size[b] // total[b]) >= 8:
            assert spacing[a] * total[a] < 4 * spacing[b] * total[b]


def test_both_networks_take_the_plan():
    x = torch.randn(1, 1, 48, 40, 16)
    plan = strides_for(x.shape[2:], (1.0, 1.0, 4.0), 3)
    assert R2UNet(3, 1, 2, (4, 8, 8, 8), strides=plan)(x).shape == (1, 2, 48, 40, 16)
    plan = strides_for(x.shape[2:], (1.0, 1.0, 4.0), 5)
    assert UPerNet(3, 1, 2, "resnet18", fpn_channels=8, strides=plan)(x).shape == (1, 2, 48, 40, 16)
