"""File systems that refuse what others do, as far as a process can pretend to have one."""

import errno
import os
import stat

import pytest


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard link can be made, as on FAT and on many network shares."""

    def link(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", link)


def refuse_folder_sync(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """`os.fsync` of a folder fails with this errno, as on CIFS; returns a list with an entry for each refusal."""
    real, refused = os.fsync, []

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(number)
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return refused
