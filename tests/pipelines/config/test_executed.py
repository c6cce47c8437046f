"""What a config says, read from inside, and errors on the command line."""

import json
import os

import pytest
from monai.bundle import ConfigParser

from pipelines.config.errors import ConfigError
from pipelines.config.executed import ExecutedConfig, executed_config

BASE = {
    "imports": ["$import pipelines"],
    "bundle_root": "bundles/x",
    "dataset_dir": "data/demo",
    "epochs": 3,
    "learning_rate": 0.1,
    "patch_size": [16, 16, 16],
    "fold": None,
    "network_def": {
        "_target_": "tests.pipelines.small.Tiny",
        "out_channels": "$@epochs + 1",
        "spatial_dims": "$len(@patch_size)",
        "features": "@fold",
    },
    "train": {"rate": "@learning_rate", "steps": ["@epochs", 2, ["$@epochs * 2"]], "where": "@dataset_dir"},
    "initialize": ["$pipelines.preflight()"],
    "training": ["$@network_def"],
    "run": "%training",
}


def parsed(**changes):
    content = json.loads(json.dumps(BASE))
    for key, value in changes.items():
        place, inner = content, key
        if "__" in key:
            outer, inner = key.split("__")
            place = content[outer]
        place[inner] = value
    parser = ConfigParser(content)
    parser.parse()
    return parser


def test_the_config_can_be_read_from_inside():
    config = ExecutedConfig(parsed())
    assert config.resolved("network_def") == {
        "_target_": "tests.pipelines.small.Tiny",
        "out_channels": 4,
        "spatial_dims": 3,
        "features": None,
    }
    assert config.resolved("train") == {"rate": 0.1, "steps": [3, 2, [6]], "where": "data/demo"}
    assert config.knobs() == {
        "bundle_root": "bundles/x",
        "dataset_dir": "data/demo",
        "epochs": 3,
        "learning_rate": 0.1,
        "patch_size": [16, 16, 16],
        "fold": None,
    }
    flat = config.flat()
    assert flat["epochs"] == "3"
    assert flat["patch_size"] == "[16, 16, 16]"
    assert flat["fold"] == "null"
    assert flat["network_def.out_channels"] == "$@epochs + 1"
    assert flat["train.steps.2.0"] == "$@epochs * 2"
    assert all(isinstance(value, str) for value in flat.values())


def test_a_tuple_is_a_list_of_its_values():
    """The command line gives one for `--network_def#norm "('group', {'num_groups': 8})"`, and MONAI has no ids in it."""
    config = ExecutedConfig(parsed(patch_size=(8, 16, 4), network_def__norm=("group", {"num_groups": 8})))
    assert config.resolved("patch_size") == config.knobs()["patch_size"] == [8, 16, 4]
    assert config.resolved("network_def")["norm"] == ["group", {"num_groups": 8}]


def test_comments_are_no_part_of_the_config():
    plain = ExecutedConfig(parsed(train__extra={"_target_": "dict", "size": 1}))
    said = ExecutedConfig(
        parsed(_desc_knobs="turn them", train__extra={"_target_": "dict", "_desc_": "a dict", "size": 1})
    )
    assert (said.raw, said.flat(), said.knobs(), said.digest()) == (
        plain.raw,
        plain.flat(),
        plain.knobs(),
        plain.digest(),
    )


def test_values_handed_in_from_python_need_not_be_json():
    parser = parsed()
    parser.update({"device": os})
    parser.parse()
    assert "device" in ExecutedConfig(parser).flat()
    assert len(ExecutedConfig(parser).digest()) == 64


def test_the_digest_is_of_the_config_without_what_is_free():
    base = ExecutedConfig(parsed()).digest(("epochs",))
    assert ExecutedConfig(parsed(epochs=9)).digest(("epochs",)) == base
    assert ExecutedConfig(parsed(learning_rate=0.2)).digest(("epochs",)) != base
    assert ExecutedConfig(parsed(epochs=9)).digest() != ExecutedConfig(parsed()).digest()


def test_outside_of_a_bundle_there_is_no_config():
    with pytest.raises(ConfigError, match="only works inside a bundle config"):
        executed_config()
