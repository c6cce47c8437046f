"""Layers that both networks share."""

import pytest
import torch
from torch import nn

from networks import R2UNet
from networks.errors import NetworkError
from networks.group_norm import GroupNorm
from networks.layers import group_count, make_norm


def test_group_counts_fit_the_channels():
    assert [group_count(c, 8) for c in (1, 2, 3, 4, 8, 12, 16, 20, 30, 64)] == [1, 1, 1, 2, 4, 6, 8, 5, 6, 8]
    network = R2UNet(2, 1, 2, (5, 12), norm=("group", {"num_groups": 4}))
    groups = {m.num_channels: m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {5: 1, 12: 4}


@pytest.mark.parametrize("spatial", [(16, 24), (8, 16, 8)])
def test_instance_norm_is_that_of_torch(spatial):
    ours = make_norm(("instance", {"eps": 1e-3}), len(spatial), 6)
    theirs = [nn.InstanceNorm2d, nn.InstanceNorm3d][len(spatial) - 2](6, eps=1e-3, affine=True)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 1.5)
        theirs.bias.uniform_(-1, 1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, *spatial) * 3 + 1
    torch.testing.assert_close(ours(x), theirs(x))


def test_instance_norm_refuses_a_map_of_one_voxel():
    with pytest.raises(NetworkError, match=r"\(2, 6, 1, 1\) has one value for each of its 6 groups"):
        make_norm("instance", 2, 6)(torch.zeros(2, 6, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "kind"), [({"affine": False}, nn.InstanceNorm3d), ({"affine": True}, GroupNorm)]
)
def test_instance_norm_without_weights_is_torchs_own(arguments, kind):
    assert isinstance(make_norm(("instance", arguments), 3, 4), kind)
