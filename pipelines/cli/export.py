"""`python -m pipelines export`: the options of the command; it runs `pipelines.inference.engines.command`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.utils.importing import gc_paused

_TO = ("torchscript", "onnx", "openvino", "tensorrt")


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as TorchScript, ONNX, OpenVINO or TensorRT",
        description="Write a trained model in other formats, with its labels, preprocessing and window size inside. Each "
        "file is checked against the model before it is kept.",
        epilog="exit status: 0 success, 1 a format could not be written, 2 an argument or a file is not valid",
    )
    parser.set_defaults(function=run)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundle folder or its zip, or a model.pt with its model.json",
    )
    parser.add_argument("--to", nargs="+", choices=_TO, required=True, help="the formats")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the files (default: that of the model)"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="images or a dataset (its training cases) to check with, any input of predict; without it a made-up window",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="onnx and openvino: convolutions in 8 bits, calibrated on windows of --data; changes labels",
    )


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Export and return the exit status."""
    for path in (arguments.model, arguments.data):
        if path is not None and not Path(path).exists():
            parser.error(f"{path[:300]} does not exist")
    if arguments.int8 and arguments.data is None:
        parser.error("--int8 is calibrated on real images; give them with --data")
    with gc_paused():
        from pipelines.inference.engines.command import export_model
        from pipelines.utils.cores import use_cores
    use_cores()
    return export_model(
        Path(arguments.model),
        arguments.to,
        Path(arguments.output) if arguments.output else None,
        Path(arguments.data) if arguments.data else None,
        arguments.int8,
    )
