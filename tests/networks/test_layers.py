"""Layers that both networks share."""

from torch import nn

from networks import R2UNet
from networks.layers import group_count


def test_group_counts_fit_the_channels():
    assert [group_count(c, 8) for c in (1, 2, 3, 4, 8, 12, 16, 20, 30, 64)] == [1, 1, 1, 2, 4, 6, 8, 5, 6, 8]
    network = R2UNet(2, 1, 2, (5, 12), norm=("group", {"num_groups": 4}))
    groups = {m.num_channels: m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {5: 1, 12: 4}
