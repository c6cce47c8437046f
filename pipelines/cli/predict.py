"""`python -m pipelines predict`: the settings of a bundle's `inference.json` as options of a command.

It runs that file with MONAI's ConfigWorkflow, exactly as `python -m monai.bundle run` does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, add_anonymous, add_bundle, add_reading, bundle_of
from pipelines.config.bundle_folders import Bundle
from transforms.errors import DONE

CONFIG = "inference.json"


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "predict",
        help="segment CTs with a trained bundle",
        description="Segment CTs with a trained bundle. Each result has the voxel grid of its input.",
        epilog=EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument(
        "input",
        metavar="PATH",
        nargs="+",
        help="a DICOM folder, a NIfTI or NRRD file, a folder of either, or a dataset.json; several files are the channels"
        " of one case",
    )
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    add_bundle(parser, required=True)
    parser.add_argument(
        "--model",
        metavar="FILE[,FILE...]",
        help="trained model to use instead of the bundle's models/model.pt; several models form an ensemble, as does the "
        "folder of a cross-validation",
    )
    add_reading(parser)
    parser.add_argument(
        "--split", choices=("training", "validation", "test"), help="segment only this list of a dataset.json"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("nii.gz", "seg.nrrd", "seg", "rtstruct"),
        default=None,
        help="files to write: NIfTI (default), a segmentation of 3D Slicer, DICOM SEG, DICOM RTSTRUCT",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write the probability map of every class"
    )
    parser.add_argument(
        "--preview",
        action="store_true",
        help="also write a picture of each case and an index.html that shows them",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="segment again the cases that already have a result"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="number format in which the network computes; auto (default) selects the fastest on this machine",
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help="what computes the windows: eager (default), compile, onnx, openvino, the fastest of these (auto), or an"
        " exported network (docs/inference.md)",
    )
    parser.add_argument(
        "--overlap",
        type=_fraction,
        metavar="FRACTION",
        help="overlap of neighbouring windows as a fraction of their size, 0 to 0.9; by default that of the training's "
        "validations",
    )
    parser.add_argument(
        "--mirror",
        metavar="AXES",
        type=_axes,
        help="average the predictions of inputs mirrored along these axes (0,1,2 are R, A, S; none for none); by "
        "default those of the training's validations. Leave out 0 if left and right are different classes",
    )
    parser.add_argument(
        "--keep-largest",
        nargs="+",
        metavar="NAME",
        help="classes of which only the largest connected component is kept, or: all",
    )
    parser.add_argument(
        "--fill-holes", nargs="+", metavar="NAME", help="classes whose holes are filled, or: all"
    )
    parser.add_argument(
        "--min-volume",
        type=_volume,
        metavar="ML",
        help="remove connected components smaller than this volume in ml",
    )
    add_anonymous(parser)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Predict and return the exit status."""
    # Only a prediction waits for these, not the --help of any command.
    from pipelines.inference.bundle_inference import as_literal, run_inference

    # Wrong paths are reported here, before torch and MONAI take seconds to load.
    for path in arguments.input:
        if not os.path.exists(path):
            parser.error(f"{path[:300]} does not exist")
    bundle, models = chosen_model(arguments, parser)
    named = [name for name in arguments.format or () if name in ("seg", "rtstruct")]
    if arguments.anonymous and named:
        parser.error(
            f"a '{named[0]}' file names its patient and refers to the images; leave out --anonymous or the format"
        )
    if Path(arguments.output).is_file():
        parser.error(f"{arguments.output} is a file; give a folder to --output")
    inputs = [as_literal(path) for path in arguments.input]
    settings: dict[str, Any] = {
        **model_settings(arguments, bundle, models),
        "input": inputs[0] if len(inputs) == 1 else inputs,
        "output": as_literal(arguments.output),
        "series": arguments.series,
        "allow": arguments.allow,
        "split": arguments.split,
        "formats": arguments.format,
        "probabilities": arguments.probabilities or None,
        "preview": arguments.preview or None,
        "overwrite": arguments.overwrite or None,
        "precision": arguments.precision,
        "engine": as_literal(arguments.engine) if arguments.engine else None,
        "overlap": arguments.overlap,
        "mirror_axes": arguments.mirror,
        "largest_component": arguments.keep_largest,
        "fill_holes": arguments.fill_holes,
        "min_volume_ml": arguments.min_volume,
        "anonymous": arguments.anonymous or None,
    }
    run_inference(bundle.configs / CONFIG, settings)
    return DONE


def chosen_model(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[Bundle, list[str]]:
    """The bundle of --bundle and the models of --model, or that of the bundle; a mistake ends the command."""
    from pipelines.utils.json_files import JsonError, read_json

    bundle = bundle_of(arguments.bundle, CONFIG, parser)
    config = bundle.configs / CONFIG
    try:
        read_json(config)
    except JsonError as error:
        parser.error(f"{config}: {error}")
    models = arguments.model.split(",") if arguments.model else [str(bundle.model)]
    for model in models:
        if not Path(model).is_file() and not Path(model, "ensemble.json").is_file():
            parser.error(f"there is no trained model at {model}; train one first, or give one with --model")
    return bundle, models


def model_settings(arguments: argparse.Namespace, bundle: Bundle, models: Sequence[str]) -> dict[str, Any]:
    """What `chosen_model` and --device are in `inference.json`."""
    from pipelines.inference.bundle_inference import as_literal

    return {
        "bundle_root": as_literal(bundle.root),
        "model": as_literal(models[0]) if len(models) == 1 else [as_literal(model) for model in models],
        "device": f"$torch.device({arguments.device!r})" if arguments.device else None,
    }


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 0.9")
    return value


def _volume(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a volume in ml, 0 or more")
    return value


def _axes(text: str) -> list[int]:
    if text == "none":
        return []
    axes = [int(part) for part in text.split(",")]
    if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
        raise argparse.ArgumentTypeError(
            f"{text} is not a list of axes; give one or more of 0,1,2, each once, or none"
        )
    return axes
