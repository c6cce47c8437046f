"""Plain restatements of the papers in torch primitives, to check the networks against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
convolve = {2: F.conv2d, 3: F.conv3d}
deconvolve = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
max_pool = {2: F.max_pool2d, 3: F.max_pool3d}
average_pool = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


def resize(x: torch.Tensor, size) -> torch.Tensor:
    return F.interpolate(x, size=size, mode=LINEAR[x.ndim - 2], align_corners=False)


class Block(nn.Module):
    """A residual block of He et al., its parameters named as in torchvision."""

    def __init__(self, dims, inplanes, planes, stride, bottleneck, groups, base_width):
        super().__init__()
        conv, norm = CONV[dims], BATCH_NORM[dims]
        self.bottleneck = bottleneck
        out = planes * (4 if bottleneck else 1)
        if bottleneck:
            width = int(planes * (base_width / 64.0)) * groups
            self.conv1 = conv(inplanes, width, 1, bias=False)
            self.bn1 = norm(width)
            self.conv2 = conv(width, width, 3, stride, 1, groups=groups, bias=False)
            self.bn2 = norm(width)
            self.conv3 = conv(width, out, 1, bias=False)
            self.bn3 = norm(out)
        else:
            self.conv1 = conv(inplanes, planes, 3, stride, 1, bias=False)
            self.bn1 = norm(planes)
            self.conv2 = conv(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or inplanes != out:
            self.downsample = nn.Sequential(conv(inplanes, out, 1, stride, bias=False), norm(out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


# bottleneck, blocks per stage, groups, width of a group
RESNETS = {
    "resnet18": (False, (2, 2, 2, 2), 1, 64),
    "resnet34": (False, (3, 4, 6, 3), 1, 64),
    "resnet50": (True, (3, 4, 6, 3), 1, 64),
    "resnet101": (True, (3, 4, 23, 3), 1, 64),
    "resnext50_32x4d": (True, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": (True, (3, 4, 23, 3), 32, 4),
}


class ReferenceResNet(nn.Module):
    """ResNet/ResNeXt with a classifier, in the layout and with the names of torchvision."""

    def __init__(self, name: str, dims: int = 2, in_channels: int = 3, num_classes: int = 10):
        super().__init__()
        bottleneck, counts, groups, base_width = RESNETS[name]
        self.conv1 = CONV[dims](in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = BATCH_NORM[dims](64)
        self.maxpool = MAX_POOL[dims](3, 2, 1)
        inplanes = 64
        for i, (planes, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True)):
            blocks = []
            for k in range(count):
                stride = 2 if i > 0 and k == 0 else 1
                blocks.append(Block(dims, inplanes, planes, stride, bottleneck, groups, base_width))
                inplanes = planes * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inplanes, num_classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features = []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            features.append(x)
        return features


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, norms and running statistics as a trained network has them: none at its initial 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)

    with torch.no_grad():
        for name, t in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                t.copy_(1 + 0.2 * normal(t).abs())
            elif t.is_floating_point() and t.ndim > 1 and min(t.shape[1:]) > 0 and t[0].numel() > 1:
                t.copy_(normal(t) * (1.5 / t[0].numel()) ** 0.5)
            elif name.endswith("weight"):
                t.copy_(1 + 0.2 * normal(t))
            elif t.is_floating_point():
                t.copy_(0.2 * normal(t))
    return module


def saved_activations(run: Callable[[], torch.Tensor], module: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of ``run``, the parameters of ``module`` not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(storage.nbytes() for storage in kept.values())
