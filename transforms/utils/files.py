"""Writing of files and folders that never appear incomplete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transforms.errors import UserError

NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Error numbers of the system for a full disk, a limit on the size of files and an exceeded quota."""
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, keep: str | os.PathLike | None = None, synced: bool = True
) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error; folders are made.

    A reader sees the old file or the new one, never a part; an error leaves the old file as it was. After the
    block the file and its name are on the disk, not only in the system's memory.

    Args:
        synced: False does not wait for the disk: a power failure may then lose the file, which is acceptable
            for large results that can be computed again.
        keep: a name in the same folder for the old file. On a file system without hard links `path` does not
            exist for a moment, so readers have to look for both names.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # Windows cannot sync a handle that was opened for reading only.
        if synced:
            with temporary.open("r+b") as stream:
                os.fsync(stream.fileno())
        # mkstemp makes files that only their owner reads; a result should have the user's usual mode.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        if keep is not None and path.exists():
            _rename_linked(path, Path(keep), temporary.with_name(f".{path.stem}-old-{temporary.name[1:]}"))
        put_in_place(temporary, path)
        if synced:
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _rename_linked(path: Path, target: Path, link: Path) -> None:
    """Give a file a second name, replacing a file of that name; without hard links the first name is lost."""
    try:
        os.link(path, link)
    except OSError:
        put_in_place(path, target)
        return
    try:
        put_in_place(link, target)
    finally:
        link.unlink(missing_ok=True)


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a file a second name, or copy it on file systems that have no hard links, or to another one.

    Raises:
        OSError: the disk is full, or the like; then there is no file `target`.
    """
    target = Path(target)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove temporary files of `replacing(path)` that killed processes left; no process may be writing the file."""
    path = Path(path)
    for left in path.parent.glob(f".{path.stem}-*.tmp{path.suffix}"):
        left.unlink(missing_ok=True)


def sync_folder(folder: str | os.PathLike) -> None:
    """Write the names in a folder to the disk, which syncing a renamed file does not do.

    Where the system does not support that (on Windows, on CIFS and other network file systems, in a folder that one may write
    to but not list), nothing happens.
    """
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


class FolderError(UserError, OSError):
    """A folder for results cannot be written to; the message says where, why and what to do."""


def require_folder(folder: str | os.PathLike[str], what: str, way: str) -> Path:
    """Make a folder unless it exists, and check that files can be written to it before the work starts.

    Args:
        what: the content of the folder, as the beginning of a sentence: "the patch store".
        way: how to choose another folder, as the end of a sentence: "name another folder with --store_dir".

    Raises:
        FolderError: it is a file, or it is not writable.
    """
    folder = Path(folder)
    try:
        try_folder(folder)
    except OSError as error:
        raise unwritable(folder, what, way, error) from error
    return folder


def try_folder(folder: Path) -> None:
    """Make a folder unless it exists, then create and remove a file in it.

    Raises:
        OSError: either cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def unwritable(folder: str | os.PathLike[str], what: str, way: str, error: OSError) -> FolderError:
    """The error for a folder that is not writable."""
    reason = "there is a file of that name" if Path(folder).is_file() else error.strerror or error
    return FolderError(f"{what} cannot be written to {folder} ({reason}); {way_out(error)}, or {way}")


def way_out(error: OSError) -> str:
    """Advice for a file that cannot be written, as part of a sentence."""
    if error.errno in NO_ROOM:
        return "free some room there"
    return "make sure that files can be written there"


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(temporary: Path, target: Path, proof: str) -> Iterator[Path]:
    """A folder `temporary` that is renamed to `target` if the block ends without an error, and removed otherwise.

    If another process made `target` first, its folder is kept: the content is equivalent, and locks are not reliable
    on every file system.

    Args:
        temporary: a new name in the file system of `target`.
        proof: name of a file that only a complete folder has.

    Raises:
        OSError: the folder cannot be made or put in place.
    """
    temporary.mkdir()
    try:
        yield temporary
        try:
            put_in_place(temporary, target)
        except OSError:
            if not (target / proof).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_RENAME_SECONDS = 5.0
_ACCESS_DENIED, _SHARING_VIOLATION = 5, 32


def put_in_place(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Give a file or a folder another name, in place of a file that may have it already; returns the target.

    Windows refuses that while another program (a reader, a virus scanner) has either of them open, mostly for a
    moment: then it is tried again, for 5 seconds.

    Raises:
        OSError: as `os.replace`.
    """
    deadline = time.monotonic() + _RENAME_SECONDS
    while True:
        try:
            return Path(source).replace(target)
        except OSError as error:
            refused = getattr(error, "winerror", None) in (_ACCESS_DENIED, _SHARING_VIOLATION)
            if not refused or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)
