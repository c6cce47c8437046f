"""Locks that end with the process that holds them, whatever the system calls its locks."""

import contextlib
import errno
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from pipelines.utils.locks import Lock, NoLocksError, waiting_for

HOLDER = """
import sys
from pipelines.utils.locks import Lock
print(Lock(sys.argv[1]).take(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path, before=""):
    """Another process that holds the lock and ends when it is killed."""
    command = [sys.executable, "-c", before + HOLDER, str(path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def hold(path, ready, over):
    ready.put(Lock(path).take())
    if os.fork() == 0:  # a worker that outlives its training
        over.wait(60)
        os._exit(0)
    time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_lock_ends_with_its_process_even_if_a_worker_lives_on(tmp_path):
    fork = multiprocessing.get_context("fork")
    path, ready, over = tmp_path / "lock", fork.SimpleQueue(), fork.Event()
    process = fork.Process(target=hold, args=(path, ready, over))
    process.start()
    assert ready.get()
    mine = Lock(path)
    assert not mine.take()
    process.kill()
    process.join()
    assert mine.take(), "the worker still lives, and has none of its lock"
    over.set()
    assert not Lock(path).take(), "nor has this process it twice"
    mine.release()
    assert Lock(path).take()


def test_who_waits_says_so_once_and_gets_the_lock_of_a_killed_process(tmp_path):
    said, entered = [], threading.Event()

    def wait():
        with waiting_for(tmp_path / "lock", busy=lambda: said.append("busy")) as taken:
            said.append(taken)
            entered.set()

    with holder(tmp_path / "lock") as process:
        thread = threading.Thread(target=wait)
        thread.start()
        while not said:
            time.sleep(0.01)
        assert not entered.wait(0.3)
        process.kill()
        thread.join(60)
    assert said == ["busy", True]
    with waiting_for(tmp_path / "lock", busy=lambda: said.append("busy")) as taken:
        assert taken
    assert said == ["busy", True], "nothing to wait for"


def test_patience_ends_and_the_block_is_entered_without_the_lock(tmp_path):
    with holder(tmp_path / "lock"), waiting_for(tmp_path / "lock", timeout=0.1) as taken:
        assert not taken
        with waiting_for(tmp_path / "lock", timeout=0) as again:
            assert not again


def test_threads_of_one_process_take_turns(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(3):
            with waiting_for(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12


def test_a_file_system_without_locks_is_told_from_a_folder_that_is_gone(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(os, "lockf", refuse)
    with pytest.raises(NoLocksError, match="No locks available"):
        Lock(tmp_path / "lock").take()
    said = []
    with waiting_for(tmp_path / "lock", unlocked=said.append) as taken:
        assert not taken
    assert [error.errno for error in said] == [errno.ENOLCK]
    with pytest.raises(FileNotFoundError) as caught:
        Lock(tmp_path / "gone" / "lock").take()
    assert not isinstance(caught.value, NoLocksError)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_users_who_share_a_folder_share_its_lock(tmp_path):
    before = os.umask(0o002)
    try:
        Lock(tmp_path / "lock").take()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o664


# What Windows has instead: one byte is locked from where the file stands, and PermissionError says that it is.
WINDOWS = """
import fcntl, os, sys, types
msvcrt = sys.modules["msvcrt"] = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK = 2
def locking(handle, mode, count):
    assert (mode, count) == (2, 1)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_CUR)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None
msvcrt.locking = locking
del os.lockf
sys.modules["fcntl"] = None
"""


def test_the_lock_of_windows(tmp_path):
    with holder(tmp_path / "lock", WINDOWS):
        other = [sys.executable, "-c", WINDOWS + HOLDER, str(tmp_path / "lock")]
        assert subprocess.run(other, input=b"", capture_output=True, check=True).stdout == b"False\n"
    other = [sys.executable, "-c", WINDOWS + HOLDER, str(tmp_path / "lock")]
    assert subprocess.run(other, input=b"", capture_output=True, check=True).stdout == b"True\n"


def test_a_system_without_any_locks_is_no_error(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "lockf")
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with pytest.raises(NoLocksError, match="this system has no locks"):
        Lock(tmp_path / "lock").take()
