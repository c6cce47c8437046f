"""`python -m pipelines train`: the training of a bundle, its settings as options.

It runs `train.json` as `python -m monai.bundle run training` does, which also takes the options apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, bundle_of
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE

CONFIG = "train.json"


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "train",
        usage="%(prog)s BUNDLE [--overlay FILE ...] [--NAME VALUE ...]",
        allow_abbrev=False,
        help="train a bundle on a dataset",
        description="Train a bundle: python -m monai.bundle run training with its train.json. Every other option is an id "
        "of that file, as in: train r2unet --dataset_dir DIR --minutes 30 --run_name first. The same command continues "
        "a training that was stopped. Models go into bundles/BUNDLE/models of the working directory (--bundle_root), "
        "preprocessed cases into data/patch_store (--store_dir).",
        epilog=EXIT,
    )
    parser.set_defaults(function=run, takes_ids=True)
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="bundle folder such as bundles/r2unet, or the name of a bundle, such as r2unet",
    )
    parser.add_argument(
        "--overlay",
        metavar="FILE",
        nargs="+",
        default=[],
        help="configs that replace values of train.json: files, such as a plan, or names of files of the bundle, such as "
        "demo.json",
    )


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Train; returns the exit status."""
    bundle = bundle_of(arguments.bundle, CONFIG, parser)
    files = [bundle.configs / CONFIG]
    for name in arguments.overlay:
        path = Path(name) if os.path.exists(name) else bundle.configs / name
        if not path.is_file():
            parser.error(f"there is no config {name[:300]}, also not in {bundle.configs}")
        files.append(path)
    words = list(arguments.overrides)
    given = {word.partition("=")[0] for word in words}
    if "--config_file" in given:
        parser.error("the bundle is the config of this command; give further ones with --overlay")
    if words and not words[0].startswith("--"):
        parser.error(f"{words[0][:300]} belongs to no option; settings are given as --NAME VALUE")
    if "--bundle_root" not in given:
        # A standard bundle would find it from the config, wherever that is.
        words += ["--bundle_root", str(bundle.root)]
        print(f"models and results go to {os.path.abspath(bundle.root)}", file=sys.stderr)
    with gc_paused():
        import fire
        from monai.bundle import run as run_config

    configs = str(files[0]) if len(files) == 1 else str([str(path) for path in files])
    fire.Fire(run_config, command=["training", "--config_file", configs, *words], name="train")
    return DONE
