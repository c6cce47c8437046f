"""UPerNet against one built from torch primitives, and the behaviour of its parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel

from networks import UPerNet
from networks.upernet import PyramidPooling, Refinement, adaptive_average

from .reference import ReferenceResNet, average_pool, convolve, randomise, resize


def restated_head(features, p, scales):
    """Section 3.2 of arXiv 1807.10221: pooling by torch's adaptive average, interpolated, then concatenated."""
    dims = features[0].ndim - 2

    def block(x, name):
        kernel = p[f"{name}.0.weight"]
        y = convolve[dims](x, kernel, padding=kernel.shape[-1] // 2)
        return F.relu(F.group_norm(y, 4, p[f"{name}.1.weight"], p[f"{name}.1.bias"]))

    top = features[-1]
    pooled = [
        resize(block(average_pool[dims](top, s), f"head.pooling.branches.{i}"), top.shape[2:])
        for i, s in enumerate(scales)
    ]
    levels = [block(torch.cat([top, *pooled], 1), "head.pooling.fuse")]
    for i in (2, 1, 0):
        lateral = block(features[i], f"head.laterals.{i}")
        levels.insert(0, lateral + resize(levels[0], lateral.shape[2:]))
    levels = [block(y, f"head.smooth.{i}") if i < 3 else y for i, y in enumerate(levels)]
    return block(torch.cat([resize(y, levels[0].shape[2:]) for y in levels], 1), "head.fuse"), levels


@pytest.mark.parametrize(
    ("dims", "size", "scales"), [(2, (64, 96), None), (2, (75, 64), (1, 4)), (3, (64, 32, 40), None)]
)
def test_equals_torch_primitives(dims, size, scales, tmp_path):
    reference = randomise(ReferenceResNet("resnet18", dims, in_channels=2)).eval()
    path = tmp_path / "resnet18.pth"
    torch.save(reference.state_dict(), path)
    network = UPerNet(
        dims,
        2,
        3,
        "resnet18",
        pool_scales=scales,
        fpn_channels=8,
        deep_supervision=True,
        encoder_weights=None,
    )
    randomise(network)
    network.encoder = UPerNet(dims, 2, 3, "resnet18", path, norm="batch", fpn_channels=8).encoder
    network.double().eval()
    network.training = True
    reference.double()
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        stacked = network(x)
        features = reference(x)
        p = network.state_dict()
        fused, levels = restated_head(features, p, scales or ((1, 2, 3, 6) if dims == 2 else (1, 2, 3)))
        for i, y in enumerate((fused, *levels[1:3])):
            logits = convolve[dims](y, p[f"classifiers.{i}.weight"], p[f"classifiers.{i}.bias"])
            torch.testing.assert_close(stacked[:, i], resize(logits, size), rtol=1e-8, atol=1e-8)
        network.training = False
        torch.testing.assert_close(network(x), stacked[:, 0])


@pytest.mark.parametrize("size", [(7,), (3, 5), (9, 4), (1, 2, 13), (6, 3, 4)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_average_is_torchs(size, bins):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    ours, theirs = adaptive_average(x, bins), pool(x, bins)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    weight = torch.randn_like(ours)
    (a,) = torch.autograd.grad((ours * weight).sum(), x)
    (b,) = torch.autograd.grad((theirs * weight).sum(), x)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("norm", [("group", {"num_groups": 8}), "instance", "batch", "layer", None])
def test_pooling_to_one_voxel_trains_at_batch_one_with_every_norm(norm):
    pooling = PyramidPooling(3, 16, 8, (1, 2), norm)
    x = torch.randn(1, 16, 3, 3, 3, requires_grad=True)
    pooling(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_strides_keep_the_through_plane_axis_longer():
    network = UPerNet(
        3, 1, 2, "resnet18", fpn_channels=8, strides=((2, 2, 1), (2, 2, 1), 2, 2, 2), refine=True
    )
    shapes = []
    network.decoder.fuse.register_forward_hook(lambda _m, _i, y: shapes.append(tuple(y.shape[2:])))
    assert network.refinement.image_half[0].stride == (2, 2, 1)
    assert network.eval()(torch.randn(1, 1, 64, 48, 10)).shape == (1, 2, 64, 48, 10)
    assert shapes == [(16, 12, 10)]


def test_refinement_draws_what_stride_four_cannot():
    """Fitted to single voxels that follow the image; the plain network's logits change too slowly for that."""
    torch.manual_seed(0)
    image = (torch.rand(1, 1, 64, 64) > 0.9).float()
    label = image[:, 0].long()
    losses = {}
    for refine in (False, True):
        torch.manual_seed(0)
        network = UPerNet(2, 1, 2, "resnet18", fpn_channels=16, refine=refine)
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(40):
            optimiser.zero_grad()
            loss = F.cross_entropy(network(image), label)
            loss.backward()
            optimiser.step()
        losses[refine] = loss.item()
    assert losses[True] < 0.75 * losses[False]


@pytest.mark.parametrize("averaged", [False, True])
def test_checkpoints_have_the_names_that_they_always_had(averaged):
    torch.manual_seed(0)
    network, other = (UPerNet(2, 1, 2, "resnet18", fpn_channels=8, deep_supervision=2) for _ in range(2))
    whole, loaded = (AveragedModel(n) if averaged else n for n in (network, other))
    state, prefix = whole.state_dict(), "module." if averaged else ""
    parts = {name.removeprefix(prefix).split(".")[0] for name in state}
    assert parts - {"n_averaged"} == {"encoder", "head", "classifiers"}
    for name in ("encoder.layer1.0.bn1.weight", "head.pooling.fuse.1.bias", "classifiers.1.bias"):
        assert prefix + name in state
    loaded.load_state_dict(state)
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(loaded(x), whole(x), rtol=0, atol=0)


def test_refinement_is_light():
    refinement = Refinement(3, 1, 64, (2, 2, 2))
    assert sum(p.numel() for p in refinement.parameters()) < 15_000


def test_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    plain = UPerNet(2, 1, 2, "resnet18", fpn_channels=8, norm="batch")
    checkpointed = UPerNet(2, 1, 2, "resnet18", fpn_channels=8, norm="batch", checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 64, 64)
    for network in (plain, checkpointed):
        network(x).square().mean().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    state = plain.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in checkpointed.state_dict().items())


def test_encoder_weights_are_reported(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(ReferenceResNet("resnet18").state_dict(), path)
    network = UPerNet(3, 1, 2, "resnet18", str(path), fpn_channels=8)
    assert "100.0% of the encoder's weights" in network.encoder_report
    assert "20 kernels inflated to 3D" in network.encoder_report
    assert "conv1.weight: 3 input channels to 1, inflated" in network.encoder_report
    with pytest.raises(ValueError, match="does not hold the weights of a resnet50"):
        UPerNet(3, 1, 2, "resnet50", str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 2 or 3"),
        ({"encoder": "resnet99"}, "no encoder 'resnet99'"),
        ({"pool_scales": (0, 1)}, "pool_scales needs"),
        ({"deep_supervision": 5}, "more heads than the 4 levels"),
        ({"strides": (2, 2, 2)}, "strides needs 5 entries"),
        ({"dropout": -0.1}, "dropout is a probability"),
    ],
)
def test_refuses_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        UPerNet(
            **{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "encoder": "resnet18", **arguments}
        )
