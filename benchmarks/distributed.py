"""Speed-up by several processes, and the time for exchanging gradients.

    python -m benchmarks.distributed                        # 1 and 2 processes on this machine's CPU
    python -m benchmarks.distributed --device cuda --processes 1 2 4 8 --size 128 --batch 2
    torchrun --nnodes=2 ... -m benchmarks.distributed --worker --device cuda     # on each of several machines

The network and the step are those of a training: channels-last, mixed precision, SegLoss, clipping, AdamW, gradients
averaged by `pipelines.data_parallel`. Every process has `--batch` patches in memory. On a CPU the threads are divided:
N processes with T / N threads each are compared with one process with T threads.

The time of the exchange is the difference between a step and a step without it (DistributedDataParallel.no_sync),
measured in turn in one process, medians. The part that overlaps with the backward pass takes no additional time and is
not included. On GPUs, `bf16` exchanges the gradients with half as many bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from networks import R2UNet
from networks.group_norm import LAYOUTS
from pipelines.distributed.process_group import (
    data_parallel,
    rank_device,
    start_distributed,
    stop_distributed,
)
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO, PRECISIONS, autocast, resolve_precision
from pipelines.training.losses import SegLoss

CLASSES = 3
# torch can exchange bf16 only over NCCL.
KINDS = {"cpu": ("exchange", "alone"), "cuda": ("exchange", "bf16", "alone")}


def work(args: argparse.Namespace) -> dict[str, float] | None:
    """Seconds per step of each kind on rank 0, as medians over the rounds; None on the other ranks."""
    torch.set_num_threads(args.threads)
    start_distributed()
    device = rank_device() if args.device == "cuda" else torch.device("cpu")
    torch.manual_seed(0)
    built, kinds = {}, KINDS[args.device]
    for kind in kinds:
        network = place(R2UNet(args.dims, 1, CLASSES, args.features), device, "auto")
        wrapped = data_parallel(network, bucket_cap_mb=args.bucket)
        if kind == "bf16":
            wrapped.register_comm_hook(None, bf16_compress_hook)
        built[kind] = wrapped, torch.optim.AdamW(wrapped.parameters(), 1e-4)
    size = (args.batch, 1, *[args.size] * args.dims)
    image = torch.randn(size, device=device).contiguous(memory_format=LAYOUTS[len(size)])
    label = torch.randint(0, CLASSES, size, device=device, dtype=torch.uint8)
    loss_of = SegLoss()

    def step(kind: str) -> None:
        network, optimizer = built[kind]
        optimizer.zero_grad(set_to_none=True)
        with network.no_sync() if kind == "alone" else contextlib.nullcontext():
            with autocast(device, resolve_precision(args.precision, device)):
                prediction = network(image)
            loss_of(prediction.float(), label).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_ in range(-2, args.rounds):
        for kind in kinds:
            synchronise(device)
            torch.distributed.barrier()
            started = time.perf_counter()
            for _ in range(args.steps):
                step(kind)
            synchronise(device)
            if round_ >= 0:
                times[kind].append((time.perf_counter() - started) / args.steps)
    parameters = sum(p.numel() for p in built["exchange"][0].parameters())
    first = torch.distributed.get_rank() == 0
    world = torch.distributed.get_world_size()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")
    stop_distributed()
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    return {"world": world, "MB": 4 * parameters / 1e6, "MiB": peak, **medians} if first else None


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def started(args: argparse.Namespace, processes: int, threads: int) -> dict[str, float]:
    """The results with a given number of processes on this machine."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += ["-m", "benchmarks.distributed", "--worker", f"--threads={threads}", "--features"]
    words += [str(number) for number in args.features]
    for name in ("device", "dims", "size", "batch", "steps", "rounds", "precision", "bucket"):
        words.append(f"--{name}={getattr(args, name)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=2, help="of a CPU, all processes together")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=3)
    parser.add_argument("--size", type=int, default=32, help="edge of a patch in voxels")
    parser.add_argument("--batch", type=int, default=1, help="patches of each process")
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--bucket", type=float, default=25.0, help="MB of gradients exchanged at once")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help="one of the processes that torchrun started")
    args = parser.parse_args()
    if args.worker:
        figures = work(args)
        if figures is not None:
            print(json.dumps(figures))
        return
    threads = {n: max(1, args.threads // n) if args.device == "cpu" else args.threads for n in args.processes}
    results = {n: started(args, n, threads[n]) for n in args.processes}
    print(f"torch {torch.__version__}, {args.dims}D, patches of {args.size}, {args.batch} a process")
    print("| processes x threads | s / step | patches / s | exchange, MB | its time | in bf16 | MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for n, row in results.items():
        shares = [
            f"{100 * (row[kind] - row['alone']) / row[kind]:.1f}%" if kind in row else ""
            for kind in ("exchange", "bf16")
        ]
        sent = row["MB"] if n > 1 else 0
        print(
            f"| {n} x {threads[n]} | {row['exchange']:.3f} | {n * args.batch / row['exchange']:.3g} | {sent:.1f} |"
            f" {shares[0]} | {shares[1]} | {row['MiB']:.0f} |"
        )
    one = results[args.processes[0]]
    for n, row in results.items():
        if n == args.processes[0]:
            continue
        mine, peer = n / row["exchange"], args.processes[0] / one["exchange"]
        print(f"RESULT patches_per_second:{n} ours={mine:.4g} peer={peer:.4g} ratio={mine / peer:.3f}")
        for kind in [kind for kind in ("exchange", "bf16") if kind in row]:
            ratio = row[kind] / row["alone"]
            print(
                f"RESULT step_with_{kind}:{n} ours={row[kind]:.4g} peer={row['alone']:.4g} ratio={ratio:.3f}"
            )


if __name__ == "__main__":
    main()
