"""What an anonymous process says; tests/e2e/test_anonymous.py searches what whole commands write."""

import logging
import warnings

import pytest

from pipelines.utils.anonymity import HIDDEN, REMARK, begin, is_anonymous, told, without_places
from transforms.errors import ImageError, SettingError


@pytest.fixture(autouse=True)
def ended():
    yield
    begin(False)


def test_paths_of_inputs_are_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(True, ["Müller", None, [f"{tmp_path}/b"], ""])
    assert is_anonymous()
    assert without_places(f"read {tmp_path}/Müller/a.nii.gz and Müller and {tmp_path}/b") == (
        f"read {HIDDEN}/a.nii.gz and {HIDDEN} and {HIDDEN}"
    )
    assert without_places({"Müller": ["Müller", 3, ("x",)]}) == {HIDDEN: [HIDDEN, 3, ["x"]]}
    begin(False)
    assert not is_anonymous()
    assert without_places("Müller") == "Müller"


def test_links_are_known_by_both_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    begin(True, [tmp_path / "link"])
    assert without_places(f"{tmp_path / 'real'} {tmp_path / 'link'}") == f"{HIDDEN} {HIDDEN}"


def test_what_readers_say_is_withheld(caplog, capsys):
    begin(True, ["/data/doe"])
    caplog.set_level(logging.DEBUG)
    logging.getLogger("transforms.dicom.stack").warning("%s: of %s", "a.dcm", "Doe^Jane")
    logging.getLogger("pipelines.data.inputs").info("Doe^Jane")
    logging.getLogger("pipelines.training.workflow").warning("%s is written", "/data/doe/x")
    assert [(record.getMessage(), record.levelname) for record in caplog.records] == [
        (REMARK, "WARNING"),
        (REMARK, "DEBUG"),
        (f"{HIDDEN}/x is written", "WARNING"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        begin(True)
        warnings.warn("Invalid value 'Doe^Jane'", UserWarning, stacklevel=1)
    assert "Doe" not in capsys.readouterr().err


def test_errors():
    error = ImageError("/data/doe/a.dcm: no CT")
    assert told(error) == "/data/doe/a.dcm: no CT"
    begin(True, ["/data/doe"])
    assert told(error).startswith("ImageError; the reason may name a patient and is withheld (anonymous)")
    assert (
        told(SettingError("choose another folder than /data/doe")) == f"choose another folder than {HIDDEN}"
    )
    assert "Doe" not in told(KeyError("Doe^Jane"))
