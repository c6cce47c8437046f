"""`python -m pipelines COMMAND`: the short forms of what a user does with CT.

`predict` runs the bundle's own `inference.json` with MONAI's workflow, exactly as `python -m monai.bundle run`
does; this only spells its settings as options of a command.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli import compare as compare_command
from pipelines.cli import evaluate as evaluate_command
from pipelines.cli import sync as sync_command
from pipelines.utils.importing import importing
from pipelines.utils.json_files import JsonError, read_json
from pipelines.utils.passwords import hidden
from pipelines.utils.terminal import take_every_character

DONE, FAILED, USAGE = 0, 1, 2
_EXIT = "exit status: 0 all is well, 1 a case failed or was refused, 2 the command cannot run as it was given"


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    take_every_character()
    parser = _parser()
    arguments = parser.parse_args(words)
    try:
        return arguments.function(arguments, parser)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _told(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="CT in, segmentation out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="segment CTs with a trained bundle",
        description="Segment CTs with a trained bundle. Each result lies on the grid of its input.",
        epilog=_EXIT,
    )
    predict.set_defaults(function=_predict)
    predict.add_argument(
        "input",
        metavar="PATH",
        help="a DICOM folder, a NIfTI or NRRD file, a folder of either, or a dataset.json",
    )
    predict.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the results")
    predict.add_argument(
        "--bundle", metavar="DIR", required=True, help="bundle folder, such as bundles/r2unet"
    )
    predict.add_argument(
        "--model",
        metavar="FILE[,FILE...]",
        help="trained model instead of the bundle's models/model.pt; several make an ensemble",
    )
    _add_reading(predict)
    predict.add_argument(
        "--split", choices=("training", "validation", "test"), help="only this list of a dataset"
    )
    predict.add_argument(
        "--format",
        nargs="+",
        choices=("nii.gz", "seg", "rtstruct"),
        default=None,
        help="files to write: NIfTI (default), DICOM SEG, DICOM RTSTRUCT",
    )
    predict.add_argument(
        "--probabilities", action="store_true", help="also write the probability of every class"
    )
    predict.add_argument(
        "--preview", action="store_true", help="also draw a picture of each case, and index.html"
    )
    predict.add_argument("--overwrite", action="store_true", help="predict again what is done already")
    predict.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    predict.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="number format of the network; auto, the default, takes the fastest of this machine",
    )
    predict.add_argument(
        "--overlap", type=_share, metavar="SHARE", help="overlap of neighbouring windows, 0 to 0.9"
    )
    predict.add_argument(
        "--mirror",
        metavar="AXES",
        type=_axes,
        help="average over mirrored inputs along these axes (0,1,2 are R, A, S); "
        "not along 0 where left and right are different classes",
    )
    predict.add_argument(
        "--keep-largest",
        nargs="+",
        metavar="NAME",
        help="classes of which only the largest piece stays, or: all",
    )
    predict.add_argument(
        "--fill-holes", nargs="+", metavar="NAME", help="classes whose holes are filled, or: all"
    )
    predict.add_argument(
        "--min-volume", type=_volume, metavar="ML", help="drop pieces smaller than this many ml"
    )
    check = commands.add_parser(
        "check",
        help="say what will be read of a dataset and what is wrong with it",
        description="Say, case by case, what will be read and everything that will be refused. Every image and label is "
        "read once, to its last byte, which takes as long as unpacking them; --headers-only leaves that out. Nothing is "
        "changed.",
        epilog=_EXIT,
    )
    check.set_defaults(function=_check)
    check.add_argument(
        "input",
        metavar="DATASET",
        help="a dataset folder or dataset.json, or a folder of images or DICOM folders",
    )
    check.add_argument(
        "--json", metavar="FILE", help="also write the findings as JSON; - for standard output"
    )
    check.add_argument(
        "--headers-only",
        action="store_true",
        help="read no voxels: quick, but damage behind the headers is not found",
    )
    _add_reading(check)
    evaluate_command.add_parser(commands)
    compare_command.add_parser(commands)
    sync_command.add_parser(commands)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--series", metavar="X", help="which series to take where a DICOM folder holds several"
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        metavar="NAME",
        help="irregularities of a DICOM series to accept: missing-slices, uneven-spacing (docs/dicom.md)",
    )


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


def _predict(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    bundle = Path(arguments.bundle)
    folders = [folder for folder in (bundle, bundle / "configs") if (folder / "inference.json").is_file()]
    # Mistakes in paths are told at once, before torch and MONAI take their seconds to load.
    if not folders:
        parser.error(f"{bundle} is no bundle (it has no inference.json); give --bundle bundles/r2unet")
    if not os.path.exists(arguments.input):
        parser.error(f"{arguments.input[:300]} does not exist")
    try:
        read_json(folders[0] / "inference.json")
    except JsonError as error:
        parser.error(f"{folders[0] / 'inference.json'}: {error}")
    if Path(arguments.output).is_file():
        parser.error(f"{arguments.output} is a file; --output takes a folder")
    models = arguments.model.split(",") if arguments.model else [str(bundle / "models" / "model.pt")]
    for model in models:
        if not Path(model).is_file():
            parser.error(f"there is no trained model at {model}; train one first, or name one with --model")
    settings: dict[str, Any] = {
        "bundle_root": _plain(bundle),
        "input": _plain(arguments.input),
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
    import logging

    with importing():
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


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not os.path.exists(arguments.input):
        parser.error(f"{arguments.input[:300]} does not exist")
    with importing():
        from pipelines.data.check import run

    wrong = run(
        Path(arguments.input),
        json_file=arguments.json,
        series=arguments.series,
        allow=arguments.allow or (),
        voxels=not arguments.headers_only,
    )
    return FAILED if wrong else DONE


def _plain(path: str | os.PathLike) -> str:
    """A path that MONAI does not take for an expression or a reference."""
    text = os.fspath(path)
    return os.path.join(".", text) if text.startswith(("$", "@", "%")) else text


def _told(error: Exception) -> int:
    """Say an error in one sentence where there is one; the exit status that belongs to it."""
    from pipelines.config.executed import DEBUG, user_error

    known = user_error(error)
    if known is None and isinstance(error, OSError) and error.strerror:
        # A disk, a right or a name: nothing that a traceback explains better.
        known = OSError(
            f"{str(error.filename)[:300]}: {error.strerror}" if error.filename else error.strerror
        )
    if known is None or os.environ.get(DEBUG):
        print(hidden("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if known is None:
        return FAILED
    print(f"error: {hidden(str(known))}", file=sys.stderr)
    return FAILED if type(known).__name__ in ("PredictionError", "ImageError", "DatasetError") else USAGE


if __name__ == "__main__":
    sys.exit(main())
