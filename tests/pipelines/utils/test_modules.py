"""Networks behind their wrappers, and compiled by their repeated blocks."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from networks import R2UNet, UPerNet
from pipelines.training.losses import SegLoss
from pipelines.training.optimization import averaged
from pipelines.training.trainer import SegTrainer
from pipelines.utils.modules import compile_regions, unwrapped
from tests.pipelines.small import Tiny

NETWORKS = {
    "r2unet": lambda: R2UNet(2, 1, 3, features=(4, 8, 12, 16, 20, 24)),
    "upernet": lambda: UPerNet(2, 1, 3, encoder="resnet18", fpn_channels=8, refine=True),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_evaluation_are_compiled_at_every_level(name):
    """torch goes back to eager after eight variants of one function, and says so only in a log."""
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    network = copy.deepcopy(plain)
    names = list(network.state_dict())
    assert compile_regions(network, backend="aot_eager")
    regions = network.regions()
    x = torch.randn(2, 1, 64, 64)
    for one in (network, plain):
        one(x).square().mean().backward()
    compiled_in_training = counters["stats"]["unique_graphs"]
    assert compiled_in_training > 4
    for a, b in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] > compiled_in_training
    assert not counters["graph_break"]
    before = counters["frames"]["total"]
    network.train()(x)
    assert counters["frames"]["total"] == before == counters["frames"]["ok"]
    assert list(network.state_dict()) == names
    assert len(regions) > 5


def test_a_trainer_compiles_what_the_network_names():
    batch = {
        "image": torch.randn(2, 1, 16, 16),
        "label": torch.randint(0, 3, (2, 1, 16, 16)),
        "case": ["a", "b"],
    }
    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        network = R2UNet(2, 1, 3, features=(4, 8))
        average = averaged(network, 0.9)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2, fused=True)
        trainer = SegTrainer(
            "cpu",
            1,
            [batch] * 4,
            network,
            optimizer,
            SegLoss(),
            compile=compile,
            compile_kwargs={"backend": "aot_eager"},
            average=average,
        )
        assert unwrapped(trainer.network) is network is trainer.network
        trainer.run()
        weights.append(torch.cat([p.detach().flatten() for p in average.parameters()]))
    assert counters["stats"]["unique_graphs"] > 1
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


def test_a_network_that_names_no_regions_is_left_alone():
    network = torch.nn.Linear(2, 2)
    assert not compile_regions(network)
    assert network._compiled_call_impl is None


def test_the_network_is_found_behind_every_wrapper(tmp_path):
    network = Tiny(2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(network))
        wrapped = [network, torch.compile(network), parallel, torch.compile(parallel)]
        for outer in wrapped:
            assert isinstance(unwrapped(outer), Tiny)
            assert list(unwrapped(outer).state_dict()) == list(network.state_dict())
    finally:
        torch.distributed.destroy_process_group()
