"""Runs a bundle's `inference.json` as `python -m monai.bundle run` does: for `predict` and for a DICOM node."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.utils.importing import gc_paused

__all__ = ["as_literal", "run_inference"]


def run_inference(config: Path, settings: Mapping[str, Any]) -> None:
    """Run a config of inference.

    Args:
        config: path of the `inference.json`.
        settings: values by id that replace those of the config; None leaves the config's. A text of somebody else, such as
            a path, has to come through `as_literal`.

    Raises:
        UserError: as `pipelines.inference.prediction.Prediction.run`, or the config cannot run.
    """
    with gc_paused():
        from monai.bundle import ConfigWorkflow

        from pipelines.inference import prediction  # noqa: F401

    logging.getLogger("monai.bundle").setLevel(logging.WARNING)
    workflow = ConfigWorkflow(
        config_file=str(config),
        workflow_type="inference",
        **{key: value for key, value in settings.items() if value is not None},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def as_literal(path: str | os.PathLike) -> str:
    """The path in a form that MONAI does not read as an expression ($), a reference (@) or a macro (%).

    Examples:
        >>> as_literal("$HOME.nii.gz"), as_literal("scan.nii.gz")
        ('./$HOME.nii.gz', 'scan.nii.gz')
    """
    text = os.fspath(path)
    return os.path.join(".", text) if text.startswith(("$", "@", "%")) else text
