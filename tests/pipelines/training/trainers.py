"""Trainers of a small network, without a dataset."""

import torch

from pipelines.training.losses import SegLoss
from pipelines.training.optimization import averaged, lr_schedule
from pipelines.training.trainer import SegTrainer
from pipelines.utils.modules import unwrapped
from tests.pipelines.small import Tiny


def batches(count, size, spatial=(8, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count * size, 1, *spatial, generator=generator)
    labels = (images > 0.3).to(torch.uint8) + (images > 1).to(torch.uint8)
    names = [f"case{i}" for i in range(count * size)]
    parts = (images.split(size), labels.split(size), [names[i * size : (i + 1) * size] for i in range(count)])
    return [dict(zip(("image", "label", "case"), part, strict=True)) for part in zip(*parts, strict=True)]


def trainer(data, epochs=2, lr=0.1, seed=0, dims=3, scheduled=False, network=None, **options):
    torch.manual_seed(seed)
    network = network or Tiny(3, dims, dropout=0.0, norm="group")
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    if scheduled:
        options["lr_scheduler"] = lr_schedule(optimizer, "poly", epochs * len(data))
    if "ema" in options:
        options["average"] = averaged(network, options.pop("ema"))
    return SegTrainer("cpu", epochs, data, network, optimizer, SegLoss(), **options)


def weights(engine):
    return torch.cat([p.detach().flatten() for p in unwrapped(engine.network).parameters()])


def averages(engine):
    return torch.cat([p.detach().flatten() for p in engine.average.module.parameters()])
