"""Measuring a network's parameters, operations, time and saved activations, each network in a separate process.

A separate process per network avoids the influence of the allocator's caches. The rounds cycle through all networks and
the median is reported, because the load of the machine varies.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def saved_activations(run: Callable[[], torch.Tensor], module: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of ``run``: unique storages, parameters not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = run()
    del y
    return sum(storage.nbytes() for storage in kept.values())


def gflops(build: Callable[[], nn.Module], shape: Sequence[int]) -> float:
    """1e9 floating-point operations of a forward pass, a multiplication and an addition counting as two."""
    with torch.device("meta"):
        network, x = build().eval(), torch.empty(tuple(shape))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return counter.get_total_flops() / 1e9


def wall_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of ``run``: wall time on an accelerator, on a CPU the processor time of this process.

    Processor time excludes waiting for other processes. It is summed over threads, including busy waiting, so
    comparisons should use one thread.
    """
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.process_time
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times)


def measure(
    build: Callable[[], nn.Module],
    shape: Sequence[int],
    device: str,
    precision: str,
    repeats: int,
    threads: int,
) -> dict[str, float]:
    """All results of one network; must be called in a new process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    figures = {"gflops": gflops(build, shape)}
    network = build().to(device)
    figures["parameters"] = sum(p.numel() for p in network.parameters()) / 1e6
    x = torch.randn(*shape, device=device)
    autocast = torch.autocast(device.split(":")[0], PRECISIONS[precision], enabled=precision != "fp32")

    def forward() -> torch.Tensor:
        with autocast:
            return network(x)

    def step() -> None:
        network.zero_grad()
        forward().float().square().mean().backward()

    network.train()
    figures["saved"] = (
        saved_activations(forward, network) / 2**20
    )  # also the warm-up for the next measurement
    figures["training"] = seconds(step, repeats, device)
    network.zero_grad()
    network.eval()
    with torch.no_grad():
        figures["forward"] = seconds(forward, repeats, device)
    return figures


def run_apart(
    module: str, names: Sequence[str], rounds: int, arguments: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Medians over rounds of ``python -m module --only name``, which prints one line of JSON.

    A contestant that fails is left out, and the end of its error is printed to stderr.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, "-m", module, "--only", name, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
            if done.returncode:
                print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
                continue
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {results[name][-1]}", file=sys.stderr, flush=True)
    return {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in results.items()
        if runs
    }
