"""The config of a bundle during its run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from monai.bundle import ConfigParser

from pipelines.config.errors import ConfigError
from pipelines.utils.anonymity import without_places
from pipelines.utils.call_stack import running_parser
from pipelines.utils.import_names import CLAIM
from pipelines.utils.passwords import without_passwords

# First characters of text that MONAI evaluates: expressions, references, macros.
_EVALUATED = ("$", "@", "%")
_KEPT = ("imports", "initialize", "bundle_root")
_REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*)")


class ExecutedConfig:
    """The config of the current bundle run, overrides included.

    Args:
        parser: MONAI's parser of that run.
    """

    def __init__(self, parser: ConfigParser) -> None:
        self.parser = parser

    @cached_property
    def raw(self) -> dict[str, Any]:
        """The merged config as written, with its references and expressions, but without passwords and comments."""
        config = {key: value for key, value in self.parser.get().items() if key != "_meta_"}
        if isinstance(config.get("imports"), list):
            # Of a wheel alone; the training is the same as in the repository.
            config["imports"] = [line for line in config["imports"] if line != CLAIM]
        return without_places(without_passwords(_without_comments(config)))

    def resolved(self, key: str) -> Any:
        """The value of an id with its references and expressions evaluated, components left as dicts.

        A tuple, as the command line may give one, becomes a list; MONAI evaluates nothing in it and has no ids for its items.
        """
        value = self.parser.get(key)
        if isinstance(value, Mapping):
            return {name: self.resolved(f"{key}::{name}") for name in value}
        if isinstance(value, list):
            return [self.resolved(f"{key}::{index}") for index in range(len(value))]
        if isinstance(value, str) and (value.startswith(("$", "@"))):
            value = self.parser.get_parsed_content(key)
        return _plain(value)

    def knobs(self) -> dict[str, Any]:
        """The settings: the values at the top level that are not components."""
        return {name: self.resolved(name) for name in knob_names(self.raw)}

    def flat(self) -> dict[str, str]:
        """Every leaf of the config under its dotted id, as written, except knobs, which are resolved."""
        found: dict[str, str] = {}
        for key, value in self.raw.items():
            for name, leaf in leaves(key, value):
                found[name] = as_text(leaf)
        for key, value in self.knobs().items():
            found[key] = as_text(without_places(value))
        return without_places(without_passwords(found))

    def digest(self, without: tuple[str, ...] = ()) -> str:
        """sha256 of the config as written, top-level ids in `without` left out."""
        kept = {key: value for key, value in self.raw.items() if key not in without}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def reparse(parser: ConfigParser) -> None:
    """Let a parser read its config again after a change during "initialize". What has been initialized stays so."""
    resolver = parser.ref_resolver
    done = {name: value for name, value in resolver.resolved_content.items() if name.split("::")[0] in _KEPT}
    resolver.reset()
    parser.parse(reset=False)
    resolver.resolved_content |= done


def executed_config() -> ExecutedConfig:
    """The config that MONAI is evaluating, for expressions in a bundle's JSON.

    Raises:
        ConfigError: not called from a bundle's config.
    """
    parser = running_parser()
    if parser is None:
        raise ConfigError(
            "executed_config() only works inside a bundle config, as in '$pipelines.executed_config()'"
        )
    return ExecutedConfig(parser)


def knob_names(raw: Mapping[str, Any]) -> list[str]:
    """The ids of the settings: the values at the top level of a config that are not components."""
    return [key for key, value in raw.items() if _is_knob(value) and key not in ("imports", "run")]


def _is_knob(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return not isinstance(value, Mapping) and not is_evaluated(value)


def is_evaluated(value: Any) -> bool:
    """Whether MONAI evaluates a part of a config instead of taking it as it is."""
    return isinstance(value, str) and value.startswith(_EVALUATED)


def as_text(leaf: Any) -> str:
    """A leaf as `ExecutedConfig.flat` returns it: text unchanged, everything else as JSON."""
    return leaf if isinstance(leaf, str) else json.dumps(leaf, default=str)


def _without_comments(value: Any) -> Any:
    """A part of a config without comments: MONAI's key `_desc_`, and keys that begin with it."""
    if isinstance(value, Mapping):
        return {k: _without_comments(v) for k, v in value.items() if not str(k).startswith("_desc_")}
    return [_without_comments(item) for item in value] if isinstance(value, list) else value


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted id and value of each leaf below a part of a config; a list of numbers is one leaf."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(f"{name}.{key}", item)
    elif isinstance(value, list) and not _is_knob(value):
        for index, item in enumerate(value):
            yield from leaves(f"{name}.{index}", item)
    else:
        yield name, value


def parts(value: Any) -> Iterator[Any]:
    """A part of a config and everything below it, at any depth."""
    yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in inner:
        yield from parts(item)


def referenced(raw: Mapping[str, Any]) -> set[str]:
    """The ids at the top level of a config that something in it refers to."""
    return {name for value in parts(raw) if isinstance(value, str) for name in _REFERENCE.findall(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
