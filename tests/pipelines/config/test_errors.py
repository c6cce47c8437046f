"""An error meant for the user is one sentence with an exit status; every other one keeps its traceback."""

import errno
import json
import os
import subprocess
import sys

import pytest

from networks.errors import NetworkError
from pipelines.__main__ import main
from pipelines.config.errors import DEBUG, one_sentence, problem, user_error
from pipelines.training.optimization import lr_schedule
from tests.test_layout import REPOSITORY
from transforms.errors import FAILED, USAGE, ImageError


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


def raise_network_error():
    raise NetworkError("strides needs 4 entries.")


def test_the_sentence_for_the_user_is_found_behind_monais():
    assert str(user_error(chained(raise_image_error))) == "a.nii.gz: cut off"
    assert str(user_error(chained(raise_network_error))) == "strides needs 4 entries."
    assert "the schedule 'linear' is unknown" in str(
        user_error(chained(lambda: lr_schedule(None, "linear", 3)))
    )
    # Those of a library need their traceback.
    assert user_error(chained(lambda: int("x"))) is None
    assert user_error(chained(lambda: {}["x"])) is None
    assert user_error(None) is None
    circle = RuntimeError("around")
    circle.__context__ = RuntimeError("and around")
    circle.__context__.__context__ = circle
    assert user_error(circle) is None


def test_what_went_wrong_names_the_case_where_the_error_does_not():
    assert problem(chained(raise_image_error), "case a") == "a.nii.gz: cut off"
    assert problem(KeyError("x"), "case a") == "case a: KeyError: 'x'"


def test_an_error_that_is_not_the_users_keeps_its_traceback(capsys, monkeypatch):
    monkeypatch.delenv(DEBUG, raising=False)
    for error, traced in ((chained(lambda: 1 / 0), True), (chained(raise_image_error), False)):
        one_sentence(type(error), error, error.__traceback__)
        text = capsys.readouterr().err
        assert ("Traceback" in text) is traced
        assert ("error: a.nii.gz: cut off" in text) is not traced
    one_sentence(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n", "Ctrl-C is no error to trace"
    monkeypatch.setenv(DEBUG, "1")
    one_sentence(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


WRONG = {
    "a setting": (
        "$pipelines.SlidingWindow([8], overlap=2)",
        USAGE,
        "overlap is 2; give a fraction of the window",
    ),
    "a network": ("$networks.R2UNet(4, 1, 2)", USAGE, "spatial_dims is 2 or 3; got 4."),
    "weights": (
        "$networks.UPerNet(2, 1, 2, encoder_weights='absent.pth')",
        USAGE,
        "there is no file of encoder weights at absent.pth.",
    ),
    "an input": (
        "$pipelines.find_inputs('/absent')",
        USAGE,
        "/absent does not exist; give a NIfTI/NRRD file",
    ),
    "a model": ("$pipelines.TrainedModel('absent.pt')", USAGE, "there is no trained model at absent.pt"),
    "a dataset": ("$pipelines.load_dataset('/absent')", FAILED, "/absent"),
    "an image": ("$pipelines.Preprocess(1.0).image('/absent.nii.gz')", FAILED, "/absent.nii.gz"),
}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Writes an inference.json that does something when it starts; `python -m pipelines predict` runs it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(DEBUG, raising=False)
    (tmp_path / "bundle/models").mkdir(parents=True)
    (tmp_path / "bundle/models/model.pt").touch()
    (tmp_path / "bundle/metadata.json").write_text('{"version": "0"}')

    def predict(expression):
        content = {"imports": ["$import networks", "$import pipelines"], "initialize": [expression]}
        (tmp_path / "bundle/inference.json").write_text(json.dumps(content))
        return main(["predict", str(tmp_path), "-o", "out", "--bundle", str(tmp_path / "bundle")])

    return predict


@pytest.mark.parametrize("what", WRONG)
def test_a_command_ends_with_the_status_of_the_error(bundle, what, capsys):
    expression, status, said = WRONG[what]
    assert bundle(expression) == status
    text = capsys.readouterr().err
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {said}")


def test_what_the_system_says_of_a_file_is_a_sentence_too(tmp_path, capsys):
    assert main(["check", str(tmp_path), "--json", str(tmp_path)]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path.parent}")
    assert line.endswith(f": {os.strerror(errno.EISDIR)}")


def test_a_command_ends_with_1_and_a_traceback_where_the_program_is_wrong(bundle, capsys):
    assert bundle("$1 / 0") == FAILED
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "\nerror: " not in text


def bundle_run(folder, expression, *arguments):
    """`python -m monai.bundle run` of a config with one knob, which checks itself first as all bundles do."""
    content = {
        "imports": ["$import networks", "$import pipelines"],
        "knob": None,
        "initialize": ["$pipelines.preflight()"],
        "training": [expression],
        "run": "%training",
    }
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "metadata.json").write_text('{"version": "0"}')
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(folder / "train.json"), "--meta_file", str(folder / "metadata.json")]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_bundle_run_ends_with_one_sentence_and_status_1(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv(DEBUG, raising=False)
    wrong = {
        "the config cannot run: nothing uses 'knop', did you": ("$print(@knob)", "--knop", "5"),
        "/absent does not exist; give a NIfTI/NRRD file": (
            "$pipelines.find_inputs(@knob)",
            "--knob",
            "/absent",
        ),
        "spatial_dims is 2 or 3; got 4.": ("$networks.R2UNet(@knob, 1, 2)", "--knob", "4"),
        "the schedule 'linear' is unknown; choose poly, cosine": (
            "$pipelines.lr_schedule(None, @knob, 3)",
            "--knob",
            "linear",
        ),
    }
    processes = [bundle_run(tmp_path / str(number), *words) for number, words in enumerate(wrong.values())]
    for said, process in zip(wrong, processes, strict=True):
        text = process.communicate()[1]
        assert process.returncode == 1
        assert "Traceback" not in text
        assert text.strip().splitlines()[-1].startswith(f"error: {said}")
