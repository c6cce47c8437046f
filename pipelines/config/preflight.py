"""Checks of a bundle's config that MONAI does not make, before anything is built."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser

from pipelines.config.components import find_component, keywords
from pipelines.config.errors import ConfigError, one_sentence
from pipelines.config.executed import (
    ExecutedConfig,
    executed_config,
    is_evaluated,
    knob_names,
    leaves,
    parts,
    referenced,
)
from pipelines.config.knobs import AUTO, KNOBS, Knob, knobs_of
from pipelines.config.monai_tracking import follow_experiment, one_run
from pipelines.utils.anonymity import begin
from pipelines.utils.call_stack import running_command
from pipelines.utils.cores import use_cores
from pipelines.utils.importing import keep_what_is_there
from pipelines.utils.terminal import take_every_character

_INPUTS = ("dataset_dir", "input", "series", "field_of_view")
"""The ids of a config that name images."""


def preflight() -> None:
    """Check the config of the current bundle run and set up its process, before anything is built.

    MONAI accepts an unknown id without an error, keeps `--x true` and `--x None` as strings, replaces '#' inside
    strings by its own separator, and reports a wrong keyword of a component with a long traceback.

    The set-up limits the threads of libraries (`pipelines.utils.cores`) and lets the output contain any character
    (`pipelines.utils.terminal`). From here on an error that is meant for the user is one sentence on stderr, exit
    status 1; SEGBUNDLES_DEBUG=1 shows the traceback.

    Raises:
        ConfigError: the config has errors; the message lists all of them.
    """
    take_every_character()
    sys.excepthook = one_sentence
    # MONAI and all that comes with it is imported by now.
    keep_what_is_there()
    use_cores()
    config = executed_config()
    begin_anonymity(config)
    one_run(config.parser)
    follow_experiment(config.parser)
    findings = [*_unknown_ids(config.raw), *_wrong_words(config), *_wrong_keywords(config.raw)]
    if findings:
        raise ConfigError("the config cannot run: " + "; ".join(findings))
    if "bundle_root" in config.raw:
        # Kept by the parser: whoever asks it for something later may not be a workflow, which knows where its file is.
        config.resolved("bundle_root")


def begin_anonymity(config: ExecutedConfig) -> None:
    """Follow the config's "anonymous", with the paths of its inputs."""
    places = [config.resolved(name) for name in _INPUTS if name in config.raw]
    begin("anonymous" in config.raw and bool(config.resolved("anonymous")), places)


def _unknown_ids(raw: Mapping[str, Any]) -> Iterator[str]:
    known = {*knobs_of(Knob.ENTRY), *referenced(raw)}
    known |= {name for name in knobs_of(Knob.NETWORK) if raw.get(name) == AUTO}
    known |= KNOBS.keys() & _given_apart(raw)
    if {"training", "evaluating"} <= raw.keys():
        # MONAI's tools load [train.json, evaluate.json], where knobs of the training have no use any more.
        command = running_command()
        known |= set(raw if command is None else ConfigParser.load_config_files(command["config_file"]))
    # An id that is null asks for nothing: inference.json has "input" for those who do not give "dataset_dir".
    for key in (name for name, value in raw.items() if value is not None):
        if key not in known and key == "registry_uri":
            yield f"nothing uses '{key}'; set MLFLOW_REGISTRY_URI"
        elif key not in known:
            close = difflib.get_close_matches(key, sorted(set(raw) - {key} | known), n=1)
            hint = (
                f", did you mean '{close[0]}'?"
                if close
                else f"; known are {', '.join(sorted(knob_names(raw)))}"
            )
            yield f"nothing uses '{key}'{hint}"


def _given_apart(raw: Mapping[str, Any]) -> set[str]:
    """Arguments of components that have a value of their own, as `--train#dataloader#num_workers 2` gives them one.

    An id of that name may then be left without use.
    """
    return {
        name
        for part in parts(raw)
        if isinstance(part, Mapping) and "_target_" in part
        for name, value in part.items()
        if not is_evaluated(value)
    }


def _wrong_words(config: ExecutedConfig) -> Iterator[str]:
    for key, value in config.raw.items():
        if isinstance(value, str) and value in ("true", "True", "false", "False", "None", "null"):
            python = {"true": "True", "false": "False", "null": "None"}.get(value, value)
            yield f"'{key}' is the text '{value}'; write --{key} '${python}' for the value"
        for name, leaf in leaves(key, value):
            if isinstance(leaf, str) and "::" in leaf and not leaf.startswith(("$", "@", "%")):
                yield (
                    f"'{name}' is '{leaf}': MONAI reads '#' as its own separator, so a path must not contain it; "
                    "rename or link the folder"
                )


def _wrong_keywords(raw: Any, where: str = "") -> Iterator[str]:
    if isinstance(raw, Mapping):
        target = raw.get("_target_")
        if isinstance(target, str) and not is_evaluated(target):
            yield from _check_component(raw, target, where)
        for key, value in raw.items():
            yield from _wrong_keywords(value, f"{where}#{key}" if where else str(key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _wrong_keywords(value, f"{where}#{index}")


def _check_component(raw: Mapping[str, Any], target: str, where: str) -> Iterator[str]:
    component = find_component(target)
    if component is None:
        yield f"'{where}' names '{target}', which does not exist"
        return
    accepted = keywords(component)
    if accepted is None:
        return
    for key in raw:
        if not (key.startswith("_") and key.endswith("_")) and key not in accepted:
            close = difflib.get_close_matches(key, sorted(accepted), n=1)
            hint = f", did you mean '{close[0]}'?" if close else ""
            yield f"'{where}#{key}': {target} takes no '{key}'{hint}"
