"""`python -m pipelines predict`: the settings of a bundle's `inference.json` as options of a command.

It runs that file with MONAI's workflow, exactly as `python -m monai.bundle run` does.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, add_reading
from pipelines.utils.importing import gc_paused
from pipelines.utils.json_files import JsonError, read_json
from transforms.errors import DONE


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "predict",
        help="segment CTs with a trained bundle",
        description="Segment CTs with a trained bundle. Each result lies on the grid of its input.",
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
    parser.add_argument(
        "--bundle", metavar="DIR", required=True, help="bundle folder, such as bundles/r2unet"
    )
    parser.add_argument(
        "--model",
        metavar="FILE[,FILE...]",
        help="trained model instead of the bundle's models/model.pt; several make an ensemble, as does the folder of a "
        "cross-validation",
    )
    add_reading(parser)
    parser.add_argument(
        "--split", choices=("training", "validation", "test"), help="only this list of a dataset"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("nii.gz", "seg", "rtstruct"),
        default=None,
        help="files to write: NIfTI (default), DICOM SEG, DICOM RTSTRUCT",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write the probability of every class"
    )
    parser.add_argument(
        "--preview", action="store_true", help="also draw a picture of each case, and index.html"
    )
    parser.add_argument("--overwrite", action="store_true", help="predict again what is done already")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="number format of the network; auto, the default, takes the fastest of this machine",
    )
    parser.add_argument(
        "--overlap", type=_share, metavar="SHARE", help="overlap of neighbouring windows, 0 to 0.9"
    )
    parser.add_argument(
        "--mirror",
        metavar="AXES",
        type=_axes,
        help="average over mirrored inputs along these axes (0,1,2 are R, A, S); "
        "not along 0 where left and right are different classes",
    )
    parser.add_argument(
        "--keep-largest",
        nargs="+",
        metavar="NAME",
        help="classes of which only the largest piece stays, or: all",
    )
    parser.add_argument(
        "--fill-holes", nargs="+", metavar="NAME", help="classes whose holes are filled, or: all"
    )
    parser.add_argument(
        "--min-volume", type=_volume, metavar="ML", help="drop pieces smaller than this many ml"
    )


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Predict; returns the exit status."""
    bundle = Path(arguments.bundle)
    folders = [folder for folder in (bundle, bundle / "configs") if (folder / "inference.json").is_file()]
    # Mistakes in paths are told at once, before torch and MONAI take their seconds to load.
    if not folders:
        parser.error(f"{bundle} is no bundle (it has no inference.json); give --bundle bundles/r2unet")
    for path in arguments.input:
        if not os.path.exists(path):
            parser.error(f"{path[:300]} does not exist")
    try:
        read_json(folders[0] / "inference.json")
    except JsonError as error:
        parser.error(f"{folders[0] / 'inference.json'}: {error}")
    if Path(arguments.output).is_file():
        parser.error(f"{arguments.output} is a file; --output takes a folder")
    models = arguments.model.split(",") if arguments.model else [str(bundle / "models" / "model.pt")]
    for model in models:
        if not Path(model).is_file() and not Path(model, "ensemble.json").is_file():
            parser.error(f"there is no trained model at {model}; train one first, or name one with --model")
    inputs = [_plain(path) for path in arguments.input]
    settings: dict[str, Any] = {
        "bundle_root": _plain(bundle),
        "input": inputs[0] if len(inputs) == 1 else inputs,
        "output": _plain(arguments.output),
        "model": _plain(models[0]) if len(models) == 1 else [_plain(model) for model in models],
        "series": arguments.series,
        "allow": arguments.allow,
        "split": arguments.split,
        "formats": arguments.format,
        "probabilities": arguments.probabilities or None,
        "preview": arguments.preview or None,
        "overwrite": arguments.overwrite or None,
        "device": f"$torch.device({arguments.device!r})" if arguments.device else None,
        "precision": arguments.precision,
        "overlap": arguments.overlap,
        "mirror_axes": arguments.mirror,
        "largest_component": arguments.keep_largest,
        "fill_holes": arguments.fill_holes,
        "min_volume_ml": arguments.min_volume,
    }
    with gc_paused():
        from monai.bundle import ConfigWorkflow

        import pipelines.inference.prediction  # noqa: F401

    logging.getLogger("monai.bundle").setLevel(logging.WARNING)
    workflow = ConfigWorkflow(
        config_file=str(folders[0] / "inference.json"),
        workflow_type="inference",
        **{key: value for key, value in settings.items() if value is not None},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return DONE


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 0.9")
    return value


def _volume(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no volume in ml")
    return value


def _axes(text: str) -> list[int]:
    axes = [int(part) for part in text.split(",")]
    if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
        raise argparse.ArgumentTypeError(f"{text} are no axes; give some of 0,1,2")
    return axes


def _plain(path: str | os.PathLike) -> str:
    """A path that MONAI does not take for an expression or a reference."""
    text = os.fspath(path)
    return os.path.join(".", text) if text.startswith(("$", "@", "%")) else text
