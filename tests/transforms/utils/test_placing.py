"""Files that take their places, also where another program has them open for a moment."""

from pathlib import Path

import pytest

from transforms.utils import files as module
from transforms.utils.files import placing, put_in_place


def refusing(monkeypatch, times, winerror):
    """As Windows does while somebody has the file open; returns the attempts."""
    real, attempts = Path.replace, []

    def replace(source, target):
        attempts.append(target)
        if len(attempts) <= times:
            error = PermissionError(13, "The process cannot access the file")
            error.winerror = winerror
            raise error
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    return attempts


@pytest.mark.parametrize("winerror", [5, 32])
def test_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path, monkeypatch, winerror):
    attempts = refusing(monkeypatch, 3, winerror)
    with placing(tmp_path / "a.nii") as part:
        part.write_bytes(b"new")
    assert (tmp_path / "a.nii").read_bytes() == b"new"
    assert len(attempts) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_one_that_stays_open_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RENAME_SECONDS", 0.1)
    attempts = refusing(monkeypatch, 10**6, 32)
    (tmp_path / "new").write_bytes(b"new")
    with pytest.raises(PermissionError):
        put_in_place(tmp_path / "new", tmp_path / "old")
    assert len(attempts) > 1
    assert (tmp_path / "new").read_bytes() == b"new"


@pytest.mark.parametrize("winerror", [None, 183])
def test_nothing_else_is_tried_twice(tmp_path, monkeypatch, winerror):
    attempts = refusing(monkeypatch, 1, winerror)
    with pytest.raises(PermissionError):
        put_in_place(tmp_path / "new", tmp_path / "old")
    assert len(attempts) == 1
