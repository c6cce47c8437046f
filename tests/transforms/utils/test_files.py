"""Files that are either whole or not there."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.file_systems import refuse_folder_sync, refuse_links
from transforms.utils import files as module
from transforms.utils.files import (
    link_or_copy,
    new_folder,
    put_in_place,
    remove_leftovers,
    replacing,
    sha256_of,
    sync_folder,
)


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
def test_a_second_name_outlives_a_new_file_of_the_first(tmp_path, monkeypatch, links):
    if not links:
        refuse_links(monkeypatch)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    second.write_text("in the way")
    link_or_copy(first, second)
    assert first.samefile(second) == links
    with replacing(first) as temporary:
        temporary.write_text("new")
    assert (first.read_text(), second.read_text()) == ("new", "old")


@pytest.mark.parametrize("links", [True, False])
def test_the_old_file_is_kept_under_another_name(tmp_path, monkeypatch, links):
    if not links:
        refuse_links(monkeypatch)
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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_syncs_no_folders_is_good_enough(tmp_path, monkeypatch, number):
    refused = refuse_folder_sync(monkeypatch, number)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert refused


@pytest.mark.skipif(os.name != "posix", reason="Windows syncs no folders")
def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    refuse_folder_sync(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_folder_that_may_be_written_to_but_not_listed(tmp_path, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # root may list every folder
    sync_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="asks a handle how it was opened")
def test_nothing_is_synced_by_a_handle_that_only_reads(tmp_path, monkeypatch):
    """Windows refuses that with EBADF."""
    import fcntl

    real, synced = os.fsync, []

    def fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "Bad file descriptor")
            synced.append(handle)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.umask(0o222)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(before)
    assert len(synced) == 1
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o444


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
    with replacing(tmp_path / "a.nii", synced=False) as part:
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


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / ".part", tmp_path / "whole", "proof") as folder:
        (folder / "proof").write_text("first")
        assert not (tmp_path / "whole").exists()
    assert (tmp_path / "whole" / "proof").read_text() == "first"
    with pytest.raises(KeyError), new_folder(tmp_path / ".part", tmp_path / "other", "proof"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_of_a_quicker_process_stays(tmp_path):
    for text in ("first", "second"):
        with new_folder(tmp_path / ".part", tmp_path / "whole", "proof") as folder:
            (folder / "proof").write_text(text)
    assert (tmp_path / "whole" / "proof").read_text() == "first"
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / ".p", tmp_path / "whole", "else"):
        (tmp_path / ".p" / "else").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
