"""Encoders against ResNets restated from torch primitives, and the loading of 2D weights."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from networks.encoders import ENCODERS, ResNetEncoder, load_encoder_weights

from .reference import ReferenceResNet, randomise

# Parameters of the published networks without their 1000-class layer.
PUBLISHED = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnext50_32x4d": 25_028_904 - 2_049_000,
    "resnext101_32x4d": 44_177_704 - 2_049_000,
}


def loaded(name: str, dims: int, state, in_channels: int = 3, **kwargs) -> tuple[ResNetEncoder, object]:
    encoder = ResNetEncoder(name, dims, in_channels, norm="batch", **kwargs).eval()
    report = load_encoder_weights(encoder, state)
    return encoder, report


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return randomise(ReferenceResNet("resnet18")).eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_has_the_published_parameters(name):
    with torch.device("meta"):
        encoder = ResNetEncoder(name, 2, 3, norm="batch")
        reference = ReferenceResNet(name).state_dict()
    assert sum(p.numel() for p in encoder.parameters()) == PUBLISHED[name]
    own = {k: v.shape for k, v in encoder.state_dict().items()}
    assert own == {k: v.shape for k, v in reference.items() if not k.startswith("fc.")}


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnext50_32x4d"])
@torch.no_grad()
def test_2d_features_equal_the_reference(name):
    reference = randomise(ReferenceResNet(name)).eval()
    encoder, report = loaded(name, 2, reference.state_dict())
    assert report.fraction == 1.0
    assert not report.missing
    assert not report.mismatched
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 49)
    for i, (ours, theirs) in enumerate(zip(encoder(x), reference(x), strict=True)):
        assert ours.shape[1] == encoder.channels[i]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_3d_features_equal_the_reference():
    reference = randomise(ReferenceResNet("resnet18", dims=3, in_channels=1)).eval()
    encoder, report = loaded("resnet18", 3, reference.state_dict(), in_channels=1)
    assert report.fraction == 1.0
    assert not report.adapted
    x = torch.randn(1, 1, 33, 32, 40)
    for ours, theirs in zip(encoder(x), reference(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("resnet18", None), ("resnet18", ((2, 2, 1), (2, 2, 1), 2, 2, 2)), ("resnext50_32x4d", None)],
)
@torch.no_grad()
def test_inflated_weights_give_the_2d_features_on_a_volume_constant_along_depth(name, strides):
    reference = randomise(ReferenceResNet(name)).eval()
    encoder, report = loaded(name, 3, reference.state_dict(), strides=strides)
    assert report.fraction == 1.0
    assert all(how == "inflated" for how in report.adapted.values())
    image = torch.randn(1, 3, 48, 32)
    depth = 6
    volume = image.unsqueeze(-1).expand(*image.shape, depth)
    features = encoder(volume)
    assert features[0].shape[-1] == (2 if strides is None else depth)
    for ours, theirs in zip(features, reference(image), strict=True):
        expected = theirs.unsqueeze(-1).expand_as(ours)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4])
@torch.no_grad()
def test_first_convolution_adapts_to_the_channels(resnet18, channels):
    encoder, report = loaded("resnet18", 2, resnet18.state_dict(), in_channels=channels)
    assert report.adapted == {"conv1.weight": f"3 input channels to {channels}"}
    grey = torch.randn(1, 1, 64, 64)
    ours = encoder(grey.expand(1, channels, 64, 64))
    theirs = resnet18(grey.expand(1, 3, 64, 64))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s},
        lambda s: {"model": {"module." + k: v for k, v in s.items()}, "epoch": 7},
        lambda s: {"state_dict": {"backbone." + k: v for k, v in s.items()}},
        lambda s: {"module.encoder_q." + k: v for k, v in s.items()},
        lambda s: {
            k: v for k, v in s.items() if not k.endswith("num_batches_tracked") and not k.startswith("fc.")
        },
        lambda s: {k: v.half() for k, v in s.items()},
    ],
    ids=["wrapped", "data-parallel", "backbone", "momentum-contrast", "bare", "half"],
)
def test_key_forms(resnet18, wrap, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(wrap(resnet18.state_dict()), path)
    encoder, report = loaded("resnet18", 2, path)
    assert report.fraction == 1.0
    assert not report.missing
    expected = resnet18.state_dict()["layer3.1.conv2.weight"]
    torch.testing.assert_close(encoder.layer3[1].conv2.weight.detach(), expected, rtol=1e-3, atol=1e-3)


def test_safetensors(resnet18, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in resnet18.state_dict().items()}, path)
    encoder, report = loaded("resnet18", 2, path)
    assert report.fraction == 1.0
    assert torch.equal(encoder.conv1.weight, resnet18.conv1.weight)


def test_group_norm_takes_kernels_and_leaves_the_statistics(resnet18):
    encoder = ResNetEncoder("resnet18", 2, 3)
    report = load_encoder_weights(encoder, resnet18.state_dict())
    assert report.fraction == 1.0
    assert "bn1.running_mean" in report.unused
    assert torch.equal(encoder.layer1[0].conv1.weight, resnet18.layer1[0].conv1.weight)
    assert torch.equal(encoder.layer1[0].bn1.norm.weight, resnet18.layer1[0].bn1.weight)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnext50_32x4d"])
def test_the_weights_of_another_encoder_are_refused(resnet18, name):
    encoder = ResNetEncoder(name, 2, 3, norm="batch")
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=rf"weights of a {name}: .*At least 90% must match"):
        load_encoder_weights(encoder, resnet18.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_refuses_what_is_no_state_dict(tmp_path):
    encoder = ResNetEncoder("resnet18", 2, 1)
    with pytest.raises(FileNotFoundError, match=r"no file of encoder weights at .*absent\.pth"):
        load_encoder_weights(encoder, tmp_path / "absent.pth")
    path = tmp_path / "list.pth"
    torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        load_encoder_weights(encoder, path)


class Payload:
    """An object whose unpickling calls a function: what a hostile weight file does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_weight_file_cannot_run_code(tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Payload(trace)}, path)
    with pytest.raises(pickle.UnpicklingError):
        load_encoder_weights(ResNetEncoder("resnet18", 2, 1), path)
    assert not trace.exists()


def test_strides():
    encoder = ResNetEncoder("resnet18", 3, 1, strides=((2, 2, 1), (2, 2, 1), (2, 2, 1), 2, 2))
    with torch.no_grad():
        shapes = [tuple(f.shape[2:]) for f in encoder(torch.zeros(1, 1, 64, 48, 12))]
    assert shapes == [(16, 12, 12), (8, 6, 12), (4, 3, 6), (2, 2, 3)]
    with pytest.raises(
        ValueError, match=r"strides needs 5 entries \(first convolution, max pooling, stages 2 to 4\)"
    ):
        ResNetEncoder("resnet18", 3, 1, strides=(2, 2))
    with pytest.raises(ValueError, match="a tuple of 3 of them"):
        ResNetEncoder("resnet18", 3, 1, strides=((2, 2), 2, 2, 2, 2))
    with pytest.raises(ValueError, match="no encoder 'vgg16'; there are resnet18"):
        ResNetEncoder("vgg16", 3, 1)
