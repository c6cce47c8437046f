"""Applying MONAI's tracking options and MLflow's environment variables to the bundle's config.

MONAI's option `--tracking mlflow` requests an MLflow run, which the bundles of this project log without it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from pipelines.config.executed import parts
from pipelines.utils.mlflow_variables import EXPERIMENT_ID, EXPERIMENT_NAME
from pipelines.utils.passwords import hidden
from pipelines.utils.provenance import invocation

logger = logging.getLogger(__name__)

HANDLER = "MLFlowHandler"
# The components that open an MLflow run; they have the arguments `uri` and `experiment`.
TRACKED = ("pipelines.Tracking", "pipelines.Evaluation")
_EXPERIMENT_IDS = ("experiment", "experiment_name", "tracking#experiment", "workflow#experiment")


def one_run(parser: ConfigParser) -> bool:
    """Remove from a config what `--tracking mlflow` has added, because it would log every training twice.

    MONAI adds MLFlowHandler to the config of the engines. This handler would open a second run in a second
    database, mlruns.db. The related options `--tracking_uri` and `--experiment_name` are applied to the
    bundle's own run, also if they are given without `--tracking mlflow`.

    Returns:
        Whether the config was changed.
    """
    config = parser.get()
    if not isinstance(config, dict):
        return False
    patched = _remove(config)
    keys = ("tracking_uri", "experiment_name")
    used = json.dumps({k: v for k, v in config.items() if k not in keys}, default=str)
    # A bundle may define and use an id of the same name; it is then left alone.
    given = {key: config.pop(key) for key in keys if key in config and f"@{key}" not in used}
    if not patched and not given:
        return False
    defaults = DEFAULT_MLFLOW_SETTINGS["configs"]
    assert isinstance(defaults, Mapping)
    if patched:
        for key in ("is_not_rank0", "save_execute_config"):
            config.pop(key, None)
        if config.get("run_name", "") is None and "@run_name" not in used:
            del config["run_name"]
        if config.get("output_dir") == defaults["output_dir"]:
            del config["output_dir"]
    for key, argument in (("tracking_uri", "uri"), ("experiment_name", "experiment")):
        if given.get(key) not in (None, defaults[key]) and not _give(config, argument, given[key]):
            text = hidden(str(given[key]))
            logger.warning("the config opens no MLflow run, so --%s %s has no effect", key, text)
    # MONAI has already parsed the config before these changes, so it is parsed again.
    parser.ref_resolver.reset()
    parser.parse(reset=False)
    return True


def follow_experiment(parser: ConfigParser) -> None:
    """Set the experiment of a bundle's runs from MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID.

    The variables override the bundle's own config, but not the command line or an overlay.
    """
    config = parser.get()
    name, number = os.environ.get(EXPERIMENT_NAME), os.environ.get(EXPERIMENT_ID)
    if not (name or number) or not isinstance(config, dict) or not _tracked(config):
        return
    if _experiment_requested():
        logger.info(
            "the command line or an overlay sets the experiment; %s and %s are ignored",
            EXPERIMENT_NAME,
            EXPERIMENT_ID,
        )
        return
    if name:
        _give(config, "experiment", name)
    if number:
        _give(config, "experiment_id", number)
    parser.ref_resolver.reset()
    parser.parse(reset=False)


def _tracked(config: Any) -> list[dict[str, Any]]:
    """The parts of a config that open a run in MLflow, at any depth."""
    return [part for part in parts(config) if isinstance(part, dict) and part.get("_target_") in TRACKED]


def _give(config: dict[str, Any], argument: str, value: Any) -> bool:
    """Set an argument of the components that open a run, or the id that it refers to; False if there are none."""
    found = _tracked(config)
    for component in found:
        reference = str(component.get(argument, ""))
        if reference.startswith("@") and reference[1:] in config:
            config[reference[1:]] = value
        else:
            component[argument] = value
    return bool(found)


def _remove(config: dict[str, Any]) -> bool:
    """Remove the MLflow handlers that MONAI's option has added; return whether there were any."""
    found = False
    for holder, key in list(_lists(config)):
        kept = [item for item in holder[key] if not _is_handler(item)]
        if len(kept) < len(holder[key]):
            found = True
            # The option creates the list if there was none.
            if kept or key == "handlers":
                holder[key] = kept
            else:
                del holder[key]
    return found


def _lists(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The lists of handlers in a config, at most three levels deep, each as its parent and key."""
    for holder in (config, *(part for part in config.values() if isinstance(part, dict))):
        inner = [part for part in holder.values() if isinstance(part, dict)] if holder is not config else []
        for place in (holder, *inner):
            for key in ("handlers", "train_handlers", "val_handlers"):
                if isinstance(place.get(key), list):
                    yield place, key


def _is_handler(item: Any) -> bool:
    return isinstance(item, Mapping) and str(item.get("_target_", "")).rpartition(".")[2] == HANDLER


def _experiment_requested() -> bool:
    """Whether the command line, MONAI's `--args_file` or an overlay names the experiment."""
    called = invocation()
    given = {str(key).replace("::", "#") for key in called["overrides"]}
    if given & set(_EXPERIMENT_IDS):
        return True
    return any(_names_experiment(ConfigParser.load_config_file(file)) for file in called["config_files"][1:])


def _names_experiment(overlay: Any) -> bool:
    if not isinstance(overlay, Mapping):
        return False
    if any(str(key).lstrip("+").replace("::", "#") in _EXPERIMENT_IDS for key in overlay):
        return True
    inner = (overlay.get(key) for key in ("tracking", "workflow"))
    return any(isinstance(part, Mapping) and "experiment" in part for part in inner)
