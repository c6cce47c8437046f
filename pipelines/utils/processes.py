"""Identifying a process and its user, and checking whether a process is still running."""

from __future__ import annotations

import getpass
import os
import platform
from pathlib import Path
from typing import Literal, TypedDict

import psutil


class Process(TypedDict, total=False):
    """The unique identity of a process, also among other machines and after a reboot.

    Attributes:
        host, machine, boot: host name, machine id, and boot id of its machine.
        space: namespace of process ids; each container of a host has its own.
        pid: process id in that namespace.
        started: start time, in units that do not depend on changes of the clock.
    """

    host: str
    machine: str
    boot: str
    space: str
    pid: int
    started: float | None


_PLACE: tuple[Literal["host", "machine", "space"], ...] = ("host", "machine", "space")


def identity() -> Process:
    """The identity of this process."""
    return {
        "host": platform.node(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "space": _process_space(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def user_name() -> str:
    """The user of this process; "unknown" if the system has no name for the user, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # the last on Windows
        return "unknown"


def gone(process: Process) -> bool:
    """Whether the process of an `identity()` has certainly ended.

    A process of another host or container cannot be checked and is assumed to be running.
    """
    here = identity()
    if any(process.get(key) != here[key] for key in _PLACE):
        return False
    return process.get("boot") != here["boot"] or not _runs(process)


def alive(process: Process) -> bool:
    """Whether the process of an `identity()` is certainly running now, on this machine."""
    here = identity()
    same = all(process.get(key) == here[key] for key in _PLACE) and process.get("boot") == here["boot"]
    return same and _runs(process)


def _runs(process: Process) -> bool:
    started = _started(int(process.get("pid", -1)))
    return started is not None and started == process.get("started")


def _started(pid: int) -> float | None:
    """The start time of a process, in units that do not depend on changes of the clock; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else float(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _process_space() -> str:
    """The namespace of process ids; each container of a host has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
