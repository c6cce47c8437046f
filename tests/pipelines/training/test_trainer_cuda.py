"""Training on a GPU: it learns in every precision, never waits for the device, goes on bit for bit, and is measured."""

import copy
import threading

import pytest
import torch
from ignite.engine import Events
from torch.utils.data import DataLoader

from networks import R2UNet, UPerNet
from pipelines.inference.memory_format import place
from pipelines.tracking.system_metrics import SystemMetrics, TorchMemory
from pipelines.training.losses import SegLoss
from pipelines.training.optimization import averaged, lr_schedule
from pipelines.training.seed import random_state, set_random_state
from pipelines.training.timing import PHASES, StepTimer
from pipelines.training.trainer import SegTrainer
from pipelines.training.trainer_state import restore_trainer, trainer_state
from tests.cuda import exact

pytestmark = pytest.mark.cuda
ITERATIONS = 12


def items(count, seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 4, 4, 4, generator=generator)
    images = 2 * torch.nn.functional.interpolate(coarse, (side,) * 3, mode="trilinear")
    return [
        {"image": x, "label": (x > 0.3).to(torch.uint8) + (x > 1).to(torch.uint8), "case": str(number)}
        for number, x in enumerate(images)
    ]


def small(kind="r2unet"):
    torch.manual_seed(0)
    if kind == "r2unet":
        return R2UNet(3, 1, 3, (8, 16, 32))
    return UPerNet(3, 1, 3, encoder="resnet18", fpn_channels=16)


def trainer(network, epochs=1, count=2 * ITERATIONS, lr=0.01, loss=None, **options):
    network = place(network, "cuda", channels_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    return SegTrainer(
        device="cuda",
        max_epochs=epochs,
        train_data_loader=DataLoader(items(count), batch_size=2, pin_memory=True),
        network=network,
        optimizer=optimizer,
        loss_function=loss or SegLoss(),
        lr_scheduler=lr_schedule(optimizer, "cosine", epochs * count // 2),
        max_grad_norm=1.0,
        channels_last=True,
        **options,
    )


def losses_of(engine):
    found = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(e.state.output["loss"]))
    engine.run()
    return torch.stack(found).cpu()


@pytest.mark.parametrize("kind", ["r2unet", "upernet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(kind, precision):
    losses = losses_of(trainer(small(kind), epochs=5, precision=precision))
    assert losses.isfinite().all()
    assert losses[-6:].mean() < 0.9 * losses[:3].mean()


@pytest.mark.parametrize("kind", ["r2unet", "upernet"])
def test_gradients_are_those_of_the_cpu(kind):
    batch, found = items(2), {}
    x = torch.stack([item["image"] for item in batch])
    y = torch.stack([item["label"] for item in batch])
    with exact():
        for device in ("cpu", "cuda"):
            network = place(small(kind), device, channels_last=True).train()
            loss = SegLoss()(network(x.to(device)), y.to(device))
            loss.backward()
            found[device] = (
                loss.detach().cpu(),
                torch.cat([p.grad.cpu().flatten() for p in network.parameters()]),
            )
    torch.testing.assert_close(found["cuda"][0], found["cpu"][0], atol=1e-4, rtol=1e-4)
    difference = (found["cuda"][1] - found["cpu"][1]).norm() / found["cpu"][1].norm()
    assert difference < 1e-3


@pytest.mark.parametrize("ema", [None, 0.99])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_no_step_waits_for_the_gpu(ema, accumulation):
    """torch raises in this mode wherever the host waits for the device."""
    network = small().cuda()
    engine = trainer(
        network,
        precision="bf16",
        average=averaged(network, ema),
        accumulation_steps=accumulation,
        check_interval=1000,
    )
    StepTimer("cuda").attach(engine)
    engine.add_event_handler(
        Events.ITERATION_STARTED(event_filter=lambda _, n: 4 <= n < ITERATIONS),
        lambda: torch.cuda.set_sync_debug_mode("error"),
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: torch.cuda.set_sync_debug_mode("default"))
    try:
        engine.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.state.iteration == ITERATIONS


class Dropping(torch.nn.Sequential):
    """Convolutions with dropout, whose numbers come from the GPU's generator."""

    def __init__(self):
        super().__init__(
            torch.nn.Conv3d(1, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Conv3d(8, 2, 3, padding=1),
        )


def squares(logits, labels):
    """A loss whose sums have one order."""
    return (logits.mean(1, keepdim=True) - labels).square().mean()


def test_a_training_goes_on_bit_for_bit():
    def fresh():
        torch.manual_seed(0)
        network = Dropping().cuda()
        return trainer(network, epochs=2, loss=squares, average=averaged(network, 0.9))

    def weights(engine):
        return [p.detach().clone() for p in (*engine.network.parameters(), *engine.average.parameters())]

    with exact():
        whole, kept = fresh(), {}

        @whole.on(Events.EPOCH_COMPLETED(once=1))
        def keep():
            kept.update(copy.deepcopy({"trainer": trainer_state(whole), "random": random_state()}))

        whole.run()
        second = fresh()
        torch.cuda.manual_seed(99)
        restore_trainer(second, kept["trainer"])
        set_random_state(kept["random"])
        second.state.epoch, second.state.max_epochs = 1, 2
        second.state.iteration = ITERATIONS
        second.state.epoch_length = ITERATIONS
        second.run()
    assert second.state.iteration == whole.state.iteration == 2 * ITERATIONS
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))


class Sleeping(Dropping):
    def forward(self, x):
        torch.cuda._sleep(400_000_000)
        return super().forward(x)


def test_phases_have_their_own_time_on_the_gpu():
    """The forward pass sleeps 200 ms or so on the device, while the host goes on at once."""
    engine = trainer(Sleeping(), loss=squares, check_interval=1000)
    timer, found, seconds = StepTimer("cuda"), {}, []
    timer.attach(engine)

    @engine.on(Events.EPOCH_COMPLETED)
    def read():
        torch.cuda.synchronize()
        found.update(timer.take())

    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: first.record())
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: last.record())
    engine.run()
    torch.cuda.synchronize()
    seconds.append(first.elapsed_time(last) / 1000)
    phases = [found[f"time/{phase}"] for phase in PHASES]
    assert phases[0] > 5 * phases[2] > 0
    assert phases[0] > phases[1] > 0
    assert sum(phases) * ITERATIONS <= 1.01 * seconds[0]


def test_the_gpu_is_among_the_systems_metrics():
    pytest.importorskip("mlflow")
    held, seen, done = torch.ones(2**20, device="cuda"), {}, threading.Event()

    def tell(values):
        seen.update(values)
        done.set()

    metrics = SystemMetrics(tell, 0.2)
    metrics.start()
    done.wait()
    metrics.stop()
    assert seen["system/gpu_0_memory_usage_megabytes"] > held.nbytes / 1e6
    assert 0 < seen["system/gpu_0_memory_usage_percentage"] <= 100
    assert {"system/gpu_0_utilization_percentage", "system/gpu_0_power_usage_watts"} <= seen.keys()


def test_memory_is_known_without_nvml_and_in_any_thread():
    held, seen = torch.ones(2**20, device="cuda"), {}
    thread = threading.Thread(target=lambda: seen.update(TorchMemory().aggregate_metrics()))
    thread.start()
    thread.join()
    assert seen["gpu_0_memory_usage_megabytes"] > held.nbytes / 1e6
