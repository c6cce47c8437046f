"""MONAI's option `--tracking mlflow`, which asks for what a bundle of ours does anyway: one MLflow run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

HANDLER = "MLFlowHandler"


def one_run(parser: ConfigParser) -> bool:
    """Take out of a config what `--tracking mlflow` has put in, since it would log every training twice.

    MONAI patches MLFlowHandler into the engines before anything is built. The handler opens a run of its own
    in a database of its own, mlruns.db. What the user gave with the option is kept: `--tracking_uri` and
    `--experiment_name` go to the bundle's own `tracking`.

    Returns:
        Whether there was something to take out.
    """
    config = parser.get()
    if not isinstance(config, dict) or not _remove(config):
        return False
    defaults = DEFAULT_MLFLOW_SETTINGS["configs"]
    assert isinstance(defaults, Mapping)
    given = {key: config.pop(key, None) for key in ("tracking_uri", "experiment_name")}
    for key in ("is_not_rank0", "save_execute_config"):
        config.pop(key, None)
    if config.get("run_name", "") is None and "@run_name" not in json.dumps(config, default=str):
        del config["run_name"]
    if config.get("output_dir") == defaults["output_dir"]:
        del config["output_dir"]
    ours = config.get("tracking")
    for key, argument in (("tracking_uri", "uri"), ("experiment_name", "experiment")):
        if isinstance(ours, dict) and given[key] not in (None, defaults[key]):
            reference = str(ours.get(argument, ""))
            if reference.startswith("@") and reference[1:] in config:
                config[reference[1:]] = given[key]
            else:
                ours[argument] = given[key]
    # MONAI has parsed the config already: it has to forget what it saw, and to find the rest again.
    parser.ref_resolver.reset()
    parser.parse(reset=False)
    return True


def _remove(config: dict[str, Any]) -> bool:
    """Remove MONAI's MLflow handlers wherever the option puts them; whether there were any."""
    found = False
    for holder, key in list(_lists(config)):
        kept = [item for item in holder[key] if not _is_handler(item)]
        if len(kept) < len(holder[key]):
            found = True
            # The option makes the list where there was none.
            if kept or key == "handlers":
                holder[key] = kept
            else:
                del holder[key]
    return found


def _lists(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every place, at most three levels deep, where a list of handlers lies."""
    for holder in (config, *(part for part in config.values() if isinstance(part, dict))):
        inner = [part for part in holder.values() if isinstance(part, dict)] if holder is not config else []
        for place in (holder, *inner):
            for key in ("handlers", "train_handlers", "val_handlers"):
                if isinstance(place.get(key), list):
                    yield place, key


def _is_handler(item: Any) -> bool:
    return isinstance(item, Mapping) and str(item.get("_target_", "")).rpartition(".")[2] == HANDLER
