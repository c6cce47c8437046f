"""The report that a training prints at its end: results per class, and the next commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.dataset_folder import DEMO
from pipelines.inference.model_card import read_card
from pipelines.inference.trained_model import BEST, CARD
from pipelines.metrics.summary import Summary, summarise, table
from pipelines.utils.anonymity import without_places
from pipelines.utils.installed import ROOT
from pipelines.utils.mlflow_variables import DEFAULT_URI
from pipelines.utils.passwords import hidden
from pipelines.utils.provenance import invocation
from pipelines.utils.terminal import quoted


def results(
    folder: Path, classes: Sequence[str], knobs: Mapping[str, Any], uri: str
) -> tuple[Summary | None, list[str]]:
    """The validation summary of the model in a folder (None without validation), and the lines of the report.

    Args:
        folder: folder of `model.json`.
        classes: names of the foreground classes.
        knobs: top-level settings of the training's config.
        uri: tracking URI of its run.

    Raises:
        CardError: `model.json` is not a valid model card.
    """
    card = read_card(folder / CARD)
    summary = None
    lines = [""]
    if "validation" in card:
        summary = summarise(card["validation"], classes)
        lines += [f"best validation, epoch {card['epoch']}:", table(summary)]
    return summary, [*lines, "", f"model: {folder / BEST}", *_next_commands(folder, knobs, uri), ""]


def finished(folder: Path) -> str:
    """The message of the next start if a training was killed after its last checkpoint."""
    return (
        f"the training in {folder} is finished, although its process was killed before it exited. To start a new "
        "training, run the same command again or give --resume new"
    )


def _next_commands(folder: Path, knobs: Mapping[str, Any], uri: str) -> list[str]:
    root = str(knobs.get("bundle_root", folder.parent))
    files = invocation()["config_files"]
    # With --bundle_root the models are in another folder than the configs, or than the one above a package's configs.
    configs = Path(files[0]).parent if files else Path(root)
    run = "python -m monai.bundle run --config_file"
    at_home = Path(root) == (configs.parent if configs.name == "configs" else configs)
    # As the configs of an installed bundle have it.
    at_home |= configs.parent == ROOT / "bundles" and Path(root) == Path("bundles", configs.name)
    given = "" if at_home else f" --bundle_root {quoted(root)}"
    # Cases that another program listed lie in no folder that could be named.
    dataset = str(without_places(str(knobs.get("dataset_dir") or "DATASET_FOLDER")))
    data = f" --dataset_dir {quoted(dataset)}" if Path(dataset) != DEMO else ""
    ui = "mlflow ui"
    if uri.startswith(("http://", "https://")):
        ui = f"the run in a browser: {hidden(uri)}"
    elif uri != DEFAULT_URI:
        ui = f"mlflow ui --backend-store-uri {quoted(hidden(uri))}"
    return [
        "next commands:",
        f"  {run} {quoted(str(configs / 'evaluate.json'))}{given}{data}",
        f"  {run} {quoted(str(configs / 'inference.json'))}{given} --input CT_FILE_OR_DICOM_FOLDER --output predictions",
        f"  {ui}",
    ]
