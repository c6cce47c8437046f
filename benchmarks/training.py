"""Training steps per second of this project, compared with MONAI, nnU-Net and a plain R2U-Net.

    python -m benchmarks.training                                  # 3D, this machine
    python -m benchmarks.training --dims 2 --size 256 --batch 8
    python -m benchmarks.training --device cuda --size 128 --batch 2 --peers monai nnunet --compiled
    python -m benchmarks.training --profile                        # time of this project's steps by kind of work
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.training --size 64  # as without AVX-512

All contestants get the same patches, already in memory; each uses its own trainer:

- ours: pipelines.SegTrainer in the precision and memory format that "auto" takes on this machine (`--precision` for
  another one), with SegLoss and the optimiser that the bundle has, Muon or fused AdamW;
- plain: the common reimplementation of R2U-Net in float32, eager (benchmarks/plain_r2unet.py), same widths and t;
- monai: UNet, BasicUNet and SegResNet, and our network too, under SupervisedTrainer with amp (which MONAI has
  on CUDA only: on a CPU these train in float32);
- nnunet: PlainConvUNet and ResidualEncoderUNet with deep supervision in nnUNetTrainer's own training step, where
  nnunetv2 is installed.

Each contestant runs in a separate process, rounds interleaved, medians. Memory is the peak of the memory allocated on
the device; on a CPU it is the memory of tensors saved for the backward pass, and in addition the increase of the
resident set since before the network was created. The ceiling is the time of the same network's convolutions measured
one by one, forward and backward, in the faster memory layout (benchmarks/ceiling.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, SegResNet, UNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceiling import convolution_ceiling, matrix_ceiling
from benchmarks.measure import run_apart, saved_activations
from benchmarks.plain_r2unet import PlainR2UNet
from benchmarks.step_profile import shares
from networks import R2UNet, UPerNet
from networks.group_norm import LAYOUTS
from pipelines.inference.memory_format import lies_channels_last, place
from pipelines.inference.precision import AUTO, PRECISIONS, autocast, resolve_precision
from pipelines.training.losses import SegLoss
from pipelines.training.muon import Muon
from pipelines.training.trainer import SegTrainer
from pipelines.utils.resident_memory import forget_peak, resident

CLASSES = 3
FEATURES = (16, 32, 64, 128, 256)
STEPS = 2

Batch = dict[str, torch.Tensor]


def batch_of(args: argparse.Namespace) -> Batch:
    generator = torch.Generator().manual_seed(0)
    size = (args.batch, 1, *[args.size] * args.dims)
    image = torch.randn(size, generator=generator)
    return {"image": image, "label": torch.randint(0, CLASSES, size, generator=generator, dtype=torch.uint8)}


def r2unet(args: argparse.Namespace, checkpointing: bool = False) -> nn.Module:
    return R2UNet(args.dims, 1, CLASSES, FEATURES, num_steps=STEPS, checkpointing=checkpointing)


def upernet(args: argparse.Namespace) -> nn.Module:
    return UPerNet(args.dims, 1, CLASSES, encoder="resnet18", refine=True)


class Contestant:
    """A network with the step that trains it.

    Attributes:
        network: on the device.
        run: trains `iterations` steps, calling back after each.
        forward: one forward pass as in training, without the loss.
    """

    def __init__(
        self, network: nn.Module, run: Callable[[int, Callable[[], None]], None], forward: Callable[[], Any]
    ) -> None:
        self.network, self.run, self.forward = network, run, forward


def _engine(
    make: Callable[[Iterable[Batch]], Any], batch: Batch
) -> Callable[[int, Callable[[], None]], None]:
    def run(iterations: int, after: Callable[[], None]) -> None:
        trainer = make([batch] * iterations)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: after())
        trainer.run()

    return run


def ours(
    build: Callable[[argparse.Namespace], nn.Module], compiled: bool = False
) -> Callable[..., Contestant]:
    def make(args: argparse.Namespace) -> Contestant:
        device, batch = torch.device(args.device), batch_of(args)
        precision = resolve_precision(args.precision, device)
        network = place(build(args), device, "auto", precision)
        kind = Muon if isinstance(network, R2UNet) else torch.optim.AdamW
        optimizer = kind(network.parameters(), 1e-4, fused=True)

        def trainer(loader: Iterable[Batch]) -> SegTrainer:
            return SegTrainer(
                device=device,
                max_epochs=1,
                train_data_loader=loader,
                network=network,
                optimizer=optimizer,
                loss_function=SegLoss(),
                precision=precision,
                max_grad_norm=1.0,
                channels_last="auto",
                compile=compiled,
                compile_kwargs={"mode": args.compile_mode},
            )

        image = batch["image"].to(device)
        if lies_channels_last(network):
            image = image.contiguous(memory_format=LAYOUTS[image.ndim])

        def forward() -> torch.Tensor:
            with autocast(device, precision):
                return network(image)

        return Contestant(network, _engine(trainer, batch), forward)

    return make


def plain(args: argparse.Namespace) -> Contestant:
    device, batch = torch.device(args.device), batch_of(args)
    network = PlainR2UNet(args.dims, 1, CLASSES, FEATURES, STEPS).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)

    def run(iterations: int, after: Callable[[], None]) -> None:
        for _ in range(iterations):
            image, label = (batch[key].to(device) for key in ("image", "label"))
            optimizer.zero_grad()
            loss_of(network(image), label).backward()
            optimizer.step()
            after()

    return Contestant(network, run, lambda: network(batch["image"].to(device)))


def monai(build: Callable[[argparse.Namespace], nn.Module]) -> Callable[..., Contestant]:
    def make(args: argparse.Namespace) -> Contestant:
        device, batch = torch.device(args.device), batch_of(args)
        network = build(args).to(device)
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)

        def trainer(loader: Iterable[Batch]) -> SupervisedTrainer:
            return SupervisedTrainer(
                device=device,
                max_epochs=1,
                train_data_loader=loader,
                network=network,
                optimizer=optimizer,
                loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
                amp=device.type == "cuda",
                decollate=False,
            )

        return Contestant(network, _engine(trainer, batch), lambda: network(batch["image"].to(device)))

    return make


def nnunet(residual: bool) -> Callable[..., Contestant]:
    def make(args: argparse.Namespace) -> Contestant:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        device, batch = torch.device(args.device), batch_of(args)
        stages = 6 if args.size >= 128 else 5
        widths = [min(32 * 2**n, 320 if args.dims == 3 else 512) for n in range(stages)]
        conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[args.dims]
        blocks = [1, 3, 4, 6, 6, 6][:stages] if residual else [2] * stages
        network = (ResidualEncoderUNet if residual else PlainConvUNet)(
            1,
            stages,
            widths,
            conv,
            3,
            [1] + [2] * (stages - 1),
            blocks,
            CLASSES,
            [1] * (stages - 1) if residual else [2] * (stages - 1),
            conv_bias=True,
            norm_op=norm,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        ).to(device)
        weights = [0.5**n for n in range(stages - 2)] + [0.0]
        weights = [weight / sum(weights) for weight in weights]
        trainer = SimpleNamespace(
            device=device,
            network=network,
            optimizer=torch.optim.SGD(
                network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
            ),
            loss=DeepSupervisionWrapper(
                DC_and_CE_loss(
                    {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
                    {},
                    weight_ce=1,
                    weight_dice=1,
                    dice_class=MemoryEfficientSoftDiceLoss,
                ),
                weights,
            ),
            grad_scaler=torch.amp.GradScaler("cuda") if device.type == "cuda" else None,
        )
        # Its augmentation makes the label of every head; here that is done once.
        targets = [
            nn.functional.interpolate(batch["label"].float(), scale_factor=0.5**n, mode="nearest")
            for n in range(stages - 1)
        ]
        data = {"data": batch["image"], "target": targets}

        def run(iterations: int, after: Callable[[], None]) -> None:
            for _ in range(iterations):
                nnUNetTrainer.train_step(trainer, data)
                after()

        return Contestant(network, run, lambda: network(batch["image"].to(device)))

    return make


OURS: dict[str, Callable[[argparse.Namespace], Contestant]] = {
    "r2unet": ours(r2unet),
    "upernet": ours(upernet),
}
RECOMPUTED = {"r2unet recomputed": ours(lambda args: r2unet(args, checkpointing=True))}
COMPILED = {"r2unet compiled": ours(r2unet, True), "upernet compiled": ours(upernet, True)}
PLAIN = {"plain r2unet fp32": plain}
MONAI = {
    "r2unet under MONAI": monai(r2unet),
    "upernet under MONAI": monai(upernet),
    "MONAI UNet": monai(lambda a: UNet(a.dims, 1, CLASSES, FEATURES, (2, 2, 2, 2), num_res_units=2)),
    "MONAI BasicUNet": monai(lambda a: BasicUNet(a.dims, 1, CLASSES)),
    "MONAI SegResNet": monai(lambda a: SegResNet(a.dims, 16, 1, CLASSES)),
}
NNUNET = {"nnU-Net plain": nnunet(False), "nnU-Net residual": nnunet(True)}
ALL = {**OURS, **RECOMPUTED, **COMPILED, **PLAIN, **MONAI, **NNUNET}


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """All results of one contestant; must be called in a new process."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    started_with = 0 if cuda else resident()
    contestant = ALL[name](args)
    contestant.network.train()
    figures: dict[str, float] = {}
    if not cuda:
        figures["MiB"] = saved_activations(contestant.forward, contestant.network) / 2**20
    started = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        contestant.run(1, lambda: None)
    figures["first"] = time.perf_counter() - started
    operations = counter.get_total_flops()
    contestant.run(args.warm_up, lambda: None)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    stamps = [time.perf_counter()]

    def stamp() -> None:
        if cuda:
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    contestant.run(args.iterations, stamp)
    # The first step of a run also pays for setting the engine up.
    figures["seconds"] = statistics.median(b - a for a, b in itertools.pairwise(stamps[1:]))
    if cuda:
        figures["MiB"] = torch.cuda.max_memory_allocated() / 2**20
    else:
        figures["resident"] = (resident("VmHWM") - started_with) / 2**20
    figures["tflops"] = operations / figures["seconds"] / 1e12
    figures["voxels"] = args.batch * args.size**args.dims / figures["seconds"]
    if name in OURS:
        ceiling = convolution_ceiling(contestant.forward, torch.device(args.device), True)
        figures["ceiling"] = ceiling["tflops"]
        figures["share"] = ceiling["seconds"] / figures["seconds"]
    return figures


def print_profile(args: argparse.Namespace) -> None:
    """A table of the kinds of work in a step of our networks."""
    if args.threads:
        torch.set_num_threads(args.threads)
    found = {}
    for name, make in OURS.items():
        contestant = make(args)
        contestant.network.train()
        contestant.run(2, lambda: None)
        found[name] = shares(lambda run=contestant.run: run(1, lambda: None), torch.device(args.device))  # type: ignore[misc]
    print("| % of a step | " + " | ".join(found) + " |")
    print("| --- |" + " ---: |" * len(found))
    for kind in next(iter(found.values())):
        print(f"| {kind} | " + " | ".join(f"{row[kind]:.0f}" for row in found.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, choices=(2, 3), default=3)
    parser.add_argument("--size", type=int, default=96, help="side of the patch in voxels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--iterations", type=int, default=4, help="timed steps within a process")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="processes per contestant, interleaved")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO, help="of our networks")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    parser.add_argument("--peers", nargs="*", choices=("monai", "nnunet"), default=["monai"])
    parser.add_argument("--compiled", action="store_true", help="our networks under torch.compile too")
    parser.add_argument("--compile-mode", help='of torch.compile, such as "reduce-overhead" for CUDA graphs')
    parser.add_argument("--profile", action="store_true", help="instead: where the time of our steps goes")
    parser.add_argument("--only", choices=ALL, help="measure one contestant and print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args)))
        return
    if args.profile:
        print_profile(args)
        return
    names = [*OURS, *RECOMPUTED, *PLAIN, *(COMPILED if args.compiled else {})]
    names += [*MONAI] if "monai" in args.peers else []
    names += [*NNUNET] if "nnunet" in args.peers else []
    keys = ("dims", "size", "batch", "device", "iterations", "threads", "precision")
    passed = [f"--{key}={getattr(args, key)}" for key in keys] + [f"--warm-up={args.warm_up}"]
    passed += [f"--compile-mode={args.compile_mode}"] if args.compile_mode else []
    results = run_apart("benchmarks.training", names, args.rounds, passed)
    failed = [name for name in names if name not in results]
    names = [*results]
    device = torch.device(args.device)
    precision = resolve_precision(args.precision, device)
    product = matrix_ceiling(device, PRECISIONS[precision] or torch.float32)
    print(f"torch {torch.__version__}, ours in {precision}, matrix product in it {product:.3g} TFLOP/s")
    print(
        "| network | s / step | steps / s | Mvoxel / s | TFLOP/s | of its convolutions alone | MiB | resident |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in results.items():
        share = f"{100 * row['share']:.0f}% of {row['ceiling']:.3g}" if "share" in row else ""
        print(
            f"| {name} | {row['seconds']:.3f} | {1 / row['seconds']:.3g} | {row['voxels'] / 1e6:.3g} |"
            f" {row['tflops']:.3g} | {share} | {row['MiB']:.0f} | {row.get('resident', 0):.0f} |"
        )
    own = [name for name in names if name in {**OURS, **RECOMPUTED, **COMPILED}]
    for mine in own:
        for peer in names:
            if peer in own or (peer.startswith("plain") and not mine.startswith("r2unet")):
                continue
            for figure in ("seconds", "MiB"):
                a, b = results[mine][figure], results[peer][figure]
                label = f"{figure}:{mine}:{peer}".replace(" ", "-")
                print(f"RESULT {label} ours={a:.4g} peer={b:.4g} ratio={a / b:.3f}")
    if failed:
        raise SystemExit(f"these failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
