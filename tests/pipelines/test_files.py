"""Files that are either whole or not there."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from pipelines.files import remove_leftovers, replacing, sha256_of


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a" / "b" / "result.nii.gz"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename is only atomic within one file system"
        assert temporary.name.endswith(".gz"), "writers choose their format by the ending"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["result.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_is_kept_under_another_name(tmp_path, monkeypatch, links):
    def refuse(*arguments):
        raise OSError("no hard links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path, keep = tmp_path / "last.pt", tmp_path / "earlier.pt"
    for text in ("1", "2", "3"):
        with replacing(path, keep=keep) as temporary:
            temporary.write_text(text)
    assert (path.read_text(), keep.read_text()) == ("3", "2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["earlier.pt", "last.pt"]


def test_a_reader_always_finds_a_file(tmp_path):
    path = tmp_path / "last.pt"
    path.write_text("old")
    seen = []
    real = Path.replace

    def replace(source, target):
        seen.append(path.exists())
        return real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with replacing(path, keep=tmp_path / "earlier.pt") as temporary:
            temporary.write_text("new")
    assert seen == [True, True]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    process = os.fork()
    if process == 0:
        with replacing(tmp_path / "last.pt") as temporary:
            temporary.write_text("half")
            os._exit(0)
    os.waitpid(process, 0)
    (tmp_path / ".last-year.pt").write_text("mine")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path / "last.pt")
    assert [p.name for p in tmp_path.iterdir()] == [".last-year.pt"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_file_has_the_users_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_sha256(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()
