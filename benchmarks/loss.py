"""SegLoss against MONAI's DiceCELoss: time and memory of one forward and backward pass. ``python -m benchmarks.loss``.

Both run in turn in one process, medians over the rounds. Memory is what is used in addition to the logits, their
gradient and the label: on CUDA the peak of the allocated memory, on a CPU the tensors saved by autograd.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss

from pipelines.training.losses import SegLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def run(loss: Loss, logits: torch.Tensor, label: torch.Tensor) -> tuple[float, float, float]:
    """Value, milliseconds and MiB."""
    cuda = logits.is_cuda
    x = logits.detach().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (x, label)}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() + x.nbytes
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = loss(x, label)
    value.backward()
    if cuda:
        torch.cuda.synchronize()
    spent = (time.perf_counter() - start) * 1e3
    taken = torch.cuda.max_memory_allocated() - before if cuda else sum(kept.values())
    return value.item(), spent, taken / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 14, 105])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours = SegLoss()
    dice_ce = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5
    )

    def monai(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return dice_ce(logits.float(), label.long())

    for classes in args.classes:
        torch.manual_seed(0)
        shape = (1, classes, args.size, args.size, args.size)
        logits = torch.randn(shape, device=args.device).bfloat16()
        logits = logits.contiguous(memory_format=torch.channels_last_3d)
        label = torch.randint(0, classes, (1, 1, *shape[2:]), dtype=torch.uint8, device=args.device)
        pairs = [(run(ours, logits, label), run(monai, logits, label)) for _ in range(args.rounds + 1)][1:]
        for place, figure in ((1, "ms"), (2, "MiB")):
            mine, theirs = (statistics.median(pair[side][place] for pair in pairs) for side in (0, 1))
            print(
                f"RESULT loss_{figure}_{classes}_classes_{args.size} ours={mine:.1f} peer={theirs:.1f} "
                f"ratio={mine / theirs:.3f}"
            )
        (value, *_), (other, *_) = pairs[0]
        print(f"RESULT loss_value_{classes}_classes_{args.size} ours={value:.6f} peer={other:.6f} ratio=1")


if __name__ == "__main__":
    main()
