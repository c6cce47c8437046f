"""Channels first or last: by choice, or by timing a layer of the network; and moments that follow the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from networks import R2UNet, UPerNet
from pipelines.inference import memory_format
from pipelines.inference.memory_format import lies_channels_last, place
from pipelines.training.trainer import SegTrainer
from pipelines.training.trainer_state import restore_trainer, trainer_state

NETWORKS = {
    "r2unet-2d": lambda: R2UNet(2, 1, 2, (4, 8)),
    "r2unet-3d": lambda: R2UNet(3, 1, 2, (4, 8)),
    "upernet-3d": lambda: UPerNet(3, 1, 2, encoder="resnet18", fpn_channels=8),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_choice_is_kept_to(name, channels_last):
    assert lies_channels_last(place(NETWORKS[name](), "cpu", channels_last)) == channels_last


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("share", "wanted"), [(1.3, True), (0.97, True), (0.7, False)])
def test_auto_takes_what_is_faster(monkeypatch, name, share, wanted):
    monkeypatch.setattr(memory_format, "_channels_first_share", lambda *_: share)
    assert lies_channels_last(place(NETWORKS[name](), "cpu", "auto", "fp32")) == wanted


def test_a_prediction_does_not_depend_on_the_clock(monkeypatch):
    monkeypatch.setattr(memory_format, "_channels_first_share", lambda *_: pytest.fail("timed"))
    assert lies_channels_last(place(R2UNet(3, 1, 2, (4, 8)).eval(), "cpu", "auto", "fp32"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_neither_the_network_nor_random_numbers(name, training):
    network = NETWORKS[name]().train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    place(network, "cpu", "auto", "fp32")
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_network_is_timed_like_one_that_learns(name):
    """As the frozen encoder of a fine-tuning is, whose convolution comes first."""
    network = NETWORKS[name]().requires_grad_(False)
    place(network, "cpu", "auto", "fp32")
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_deterministic_mode_does_not_time(monkeypatch):
    monkeypatch.setattr(memory_format, "_channels_first_share", lambda *_: pytest.fail("timed"))
    torch.use_deterministic_algorithms(True)
    try:
        assert lies_channels_last(place(R2UNet(2, 1, 2, (4, 8)), "cpu", "auto"))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_network_without_such_a_convolution_is_not_timed():
    assert lies_channels_last(place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "cpu", "auto"))


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="channels_last is 'yes'"):
        place(nn.Conv2d(1, 1, 1), "cpu", "yes")


def trainer(channels_last: bool) -> SegTrainer:
    torch.manual_seed(0)
    network = place(R2UNet(3, 1, 2, (4, 8), num_steps=1), "cpu", channels_last)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 1, 8, 8, 8, generator=generator)
    batches = [{"image": image, "label": (image > 0).to(torch.uint8), "case": ["a"]}] * 2
    return SegTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), 1e-2, fused=True),
        loss_function=_loss,
        channels_last="auto",
    )


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels[:, 0].long())


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_goes_on_in_the_other_format(first):
    """A fused optimiser walks through weights and moments as they lie: two formats would mix them up in silence."""
    one = trainer(first)
    assert one.channels_last == first
    one.run()
    state = trainer_state(one)
    after = []
    for channels_last in (first, not first):
        other = trainer(channels_last)
        restore_trainer(other, copy.deepcopy(state))
        for parameter, values in other.optimizer.state.items():
            assert values["exp_avg"].stride() == parameter.stride()
        other.state.max_epochs, other.state.iteration, other.state.epoch = 1, 0, 0
        other.run()
        after.append(torch.cat([p.detach().flatten() for p in other.network.parameters()]))
    torch.testing.assert_close(after[0], after[1], rtol=1e-3, atol=1e-4)
