"""What a bundle's config says, seen from inside a run, and the checks that MONAI leaves out."""

from __future__ import annotations

import difflib
import dis
import hashlib
import inspect
import json
import os
import pydoc
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

from pipelines.config.monai_tracking import follow_experiment, one_run
from pipelines.utils.cores import use_cores
from pipelines.utils.importing import keep_what_is_there
from pipelines.utils.passwords import hidden, without_passwords
from pipelines.utils.terminal import take_every_character

# Ids that MONAI and its tools read without a reference from inside the config.
ENTRY_POINTS = {
    "_meta_",
    "imports",
    "initialize",
    "finalize",
    "run",
    "training",
    "evaluating",
    "inferring",
    "bundle_root",
    "device",
    "dataset_dir",
    "dataset",
    "network_def",
    "network",
    "preprocessing",
    "postprocessing",
    "evaluator",
    "inferer",
    "handlers",
    "key_metric",
    "val_interval",
    "train",
    "validate",
    "loss",
    "optimizer",
    "lr_scheduler",
    "displayable_configs",
    "output_dir",
    "save_execute_config",
    "tracking_uri",
    "experiment_name",
}
REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*)")
DEBUG = "SEGBUNDLES_DEBUG"
OURS = ("networks", "transforms", "pipelines")


class ConfigError(ValueError):
    """The config or an override asks for something that does not exist."""


class ExecutedConfig:
    """The config of the bundle run that is going on, overrides included.

    Args:
        parser: MONAI's parser of that run.
    """

    def __init__(self, parser: ConfigParser) -> None:
        self.parser = parser

    @property
    def raw(self) -> dict[str, Any]:
        """The merged config as written, with its references and expressions, but without passwords."""
        return without_passwords({key: value for key, value in self.parser.get().items() if key != "_meta_"})

    def resolved(self, key: str) -> Any:
        """The value of an id with its references and expressions evaluated, components left as dicts."""
        value = self.parser.get(key)
        if isinstance(value, Mapping):
            return {name: self.resolved(f"{key}::{name}") for name in value}
        if isinstance(value, (list, tuple)):
            return [self.resolved(f"{key}::{index}") for index in range(len(value))]
        if isinstance(value, str) and (value.startswith(("$", "@"))):
            value = self.parser.get_parsed_content(key)
        return _plain(value)

    def knobs(self) -> dict[str, Any]:
        """The values at the top level that a person turns: everything that is not a component."""
        names = [key for key, value in self.raw.items() if _is_knob(value) and key not in ("imports", "run")]
        return {name: self.resolved(name) for name in names}

    def flat(self) -> dict[str, str]:
        """Every leaf of the config under its dotted id, as written, except knobs, which are resolved."""
        leaves: dict[str, str] = {}
        for key, value in self.raw.items():
            for name, leaf in _leaves(key, value):
                leaves[name] = leaf if isinstance(leaf, str) else json.dumps(leaf, default=str)
        for key, value in self.knobs().items():
            leaves[key] = value if isinstance(value, str) else json.dumps(value, default=str)
        return without_passwords(leaves)

    def digest(self, without: tuple[str, ...] = ()) -> str:
        """sha256 of the config as written, top-level ids in `without` left out."""
        kept = {key: value for key, value in self.raw.items() if key not in without}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def executed_config() -> ExecutedConfig:
    """The config that is being evaluated right now, for expressions in a bundle's JSON.

    MONAI hands an expression the values that it references but not the config itself, so this looks up the
    call stack for the parser that is evaluating it.

    Raises:
        ConfigError: called from outside of a bundle.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return ExecutedConfig(owner)
        frame = frame.f_back
    raise ConfigError(
        "executed_config() only works inside a bundle config, as in '$pipelines.executed_config()'"
    )


def preflight() -> None:
    """Check the config of the bundle run that is going on, before anything is built.

    MONAI accepts an unknown id in silence, keeps `--x true` and `--x None` as strings, turns '#' inside
    strings into its own separator, and reports a wrong keyword in a component with a page of traceback. Libraries are
    told how many cores there are, see `pipelines.utils.cores`.
    From here on an error that the user can mend is one sentence on stderr, exit status 1; set
    SEGBUNDLES_DEBUG=1 to see the traceback. Output takes every character, see `pipelines.utils.terminal`.

    Raises:
        ConfigError: naming every finding.
    """
    take_every_character()
    sys.excepthook = _one_sentence
    # MONAI and all that comes with it is imported by now.
    keep_what_is_there()
    use_cores()
    config = executed_config()
    one_run(config.parser)
    follow_experiment(config.parser)
    findings = [*_unknown_ids(config.raw), *_wrong_words(config), *_wrong_keywords(config.raw)]
    if findings:
        raise ConfigError("the config cannot run: " + "; ".join(findings))


def _unknown_ids(raw: Mapping[str, Any]) -> Iterator[str]:
    known = set(ENTRY_POINTS)
    for value in _strings(raw):
        known.update(REFERENCE.findall(value))
    for key in raw:
        if key not in known and key == "registry_uri":
            yield f"nothing uses '{key}'; set MLFLOW_REGISTRY_URI"
        elif key not in known:
            close = difflib.get_close_matches(key, sorted(set(raw) - {key} | known), n=1)
            hint = (
                f", did you mean '{close[0]}'?"
                if close
                else f"; known are {', '.join(sorted(_knob_names(raw)))}"
            )
            yield f"nothing uses '{key}'{hint}"


def _wrong_words(config: ExecutedConfig) -> Iterator[str]:
    for key, value in config.raw.items():
        if isinstance(value, str) and value in ("true", "True", "false", "False", "None", "null"):
            python = {"true": "True", "false": "False", "null": "None"}.get(value, value)
            yield f"'{key}' is the text '{value}'; write --{key} '${python}' for the value"
        for name, leaf in _leaves(key, value):
            if isinstance(leaf, str) and "::" in leaf and not leaf.startswith(("$", "@", "%")):
                yield (
                    f"'{name}' is '{leaf}': MONAI reads '#' as its own separator, so a path must not contain it; "
                    "rename or link the folder"
                )


def _wrong_keywords(raw: Any, where: str = "") -> Iterator[str]:
    if isinstance(raw, Mapping):
        target = raw.get("_target_")
        if isinstance(target, str) and not target.startswith(("$", "@", "%")):
            yield from _check_component(raw, target, where)
        for key, value in raw.items():
            yield from _wrong_keywords(value, f"{where}#{key}" if where else str(key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _wrong_keywords(value, f"{where}#{index}")


def _check_component(raw: Mapping[str, Any], target: str, where: str) -> Iterator[str]:
    module = None if "." in target else ComponentLocator().get_component_module_name(target)
    module = module[0] if isinstance(module, list) else module
    found = pydoc.locate(f"{module}.{target}" if module else target)
    if found is None:
        yield f"'{where}' names '{target}', which does not exist"
        return
    accepted = _keywords(found)
    if accepted is None:
        return
    for key in raw:
        if not (key.startswith("_") and key.endswith("_")) and key not in accepted:
            close = difflib.get_close_matches(key, sorted(accepted), n=1)
            hint = f", did you mean '{close[0]}'?" if close else ""
            yield f"'{where}#{key}': {target} takes no '{key}'{hint}"


def _keywords(target: Any) -> set[str] | None:
    """The keyword arguments that a class or function takes; None if that cannot be said.

    A constructor with **kwargs hands them on to the next class, as in `SegTrainer`.
    """
    owners = inspect.getmro(target) if inspect.isclass(target) else (target,)
    accepted: set[str] = set()
    for owner in owners:
        function = vars(owner).get("__init__") if inspect.isclass(owner) else owner
        if function is None:
            continue
        if owner is object:
            return None
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        accepted |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return accepted - {"self"}
    return None


def _knob_names(raw: Mapping[str, Any]) -> list[str]:
    return [key for key, value in raw.items() if _is_knob(value) and key not in ("imports", "run")]


def _is_knob(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return not isinstance(value, Mapping) and not (
        isinstance(value, str) and value.startswith(("$", "@", "%"))
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}", item)
    elif isinstance(value, list) and not _is_knob(value):
        for index, item in enumerate(value):
            yield from _leaves(f"{name}.{index}", item)
    else:
        yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def user_error(error: BaseException | None) -> BaseException | None:
    """The error that the user can mend, in the chain behind what MONAI raised, or None.

    Error classes of this project, and ValueErrors that it raises itself, carry a sentence meant for the user.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        module = type(error).__module__
        if module.split(".")[0] in OURS or (type(error) is ValueError and _raised_by_us(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def problem(error: BaseException, where: object) -> str:
    """What went wrong, in the sentence meant for the user, or else with the file or case that it was about."""
    known = user_error(error)
    return str(known) if known is not None else f"{where}: {type(error).__name__}: {error}"


def _raised_by_us(error: BaseException) -> bool:
    """Whether a `raise` of this project made the error, not a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] not in OURS:
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    known = user_error(error)
    if issubclass(kind, KeyboardInterrupt) and not os.environ.get(DEBUG):
        # Python ends by the signal all the same, which is what a shell looks for.
        print("interrupted", file=sys.stderr)
        return
    if known is None or os.environ.get(DEBUG):
        print(hidden("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
        return
    print(f"error: {hidden(str(known))}", file=sys.stderr)
