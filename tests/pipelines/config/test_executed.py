"""What a config says, read from inside, and errors on the command line."""

import json
import os
import subprocess
import sys

import pytest
from monai.bundle import ConfigParser

from pipelines.config import errors
from pipelines.config import executed as module
from pipelines.config.errors import ConfigError, user_error
from pipelines.config.executed import ExecutedConfig, executed_config
from pipelines.training.optimization import lr_schedule
from transforms.errors import ImageError

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


def chained(inner):
    """What comes out when MONAI runs into an error."""
    try:
        try:
            inner()
        except Exception as error:
            raise RuntimeError("Failed to instantiate component") from error
    except RuntimeError as error:
        return error


def raise_image_error():
    raise ImageError("a.nii.gz: cut off")


def test_the_sentence_for_the_user_is_found_behind_monais():
    assert str(user_error(chained(raise_image_error))) == "a.nii.gz: cut off"
    # a plain ValueError that this project raises
    ours = chained(lambda: lr_schedule(None, "linear", 3))
    assert "the schedule 'linear' is unknown" in str(user_error(ours))
    # one that a library raises when this project calls it needs its traceback
    assert user_error(chained(lambda: module.leaves("a", None).throw(ValueError("x")))) is None
    assert user_error(chained(lambda: int("x"))) is None
    assert user_error(chained(lambda: ExecutedConfig(None).raw)) is None


def bundle(folder, *arguments, **changes):
    content = {**BASE, **changes}
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "metadata.json").write_text('{"version": "0"}')
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(folder / "train.json"), "--meta_file", str(folder / "metadata.json")]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_on_the_command_line_an_error_is_one_sentence(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    folders = [tmp_path / name for name in ("typo", "deep")]
    for folder in folders:
        folder.mkdir()
    processes = [
        bundle(folders[0], "--epoch", "5"),
        bundle(folders[1], training=["$pipelines.find_inputs('/no/such/file')"]),
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert (
        errors[0]
        .strip()
        .splitlines()[-1]
        .startswith("error: the config cannot run: nothing uses 'epoch', did you")
    )
    assert "error: /no/such/file does not exist; give a NIfTI/NRRD file" in errors[1]
    assert not any("Traceback" in error for error in errors)


def test_an_error_that_is_not_the_users_keeps_its_traceback(capsys, monkeypatch):
    monkeypatch.delenv(errors.DEBUG, raising=False)
    for error, traced in ((chained(lambda: 1 / 0), True), (chained(raise_image_error), False)):
        errors.one_sentence(type(error), error, error.__traceback__)
        text = capsys.readouterr().err
        assert ("Traceback" in text) is traced
        assert ("error: a.nii.gz: cut off" in text) is not traced
    errors.one_sentence(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n", "Ctrl-C is no error to trace"
    monkeypatch.setenv(errors.DEBUG, "1")
    errors.one_sentence(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err
