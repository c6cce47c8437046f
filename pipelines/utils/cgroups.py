"""The control groups that Linux keeps this process in: containers, batch jobs and services have limits there.

Both versions: https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

__all__ = ["cgroup_folders", "read_if_there"]


def cgroup_folders(controller: str, root: Path) -> list[Path]:
    """The folders of this process's control groups and of all groups around them, the innermost first.

    A folder of the list need not exist: in a container the path may be the host's, and only the root is to be seen.

    Args:
        controller: of version 1, such as "cpu" or "memory"; in version 2 one folder is for all.
        root: where `/proc` and `/sys` lie.
    """
    mount = root / "sys" / "fs" / "cgroup"
    folders: list[Path] = []
    for line in read_if_there(root / "proc" / "self" / "cgroup").splitlines():
        # id:controllers:path, with no controllers in version 2
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            tops = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            tops = [mount / controllers, mount / controller]
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        folders += [top / part for top in tops for part in (own, *own.parents)]
    return list(dict.fromkeys(folders))


def read_if_there(path: Path) -> str:
    """The text of a file of the kernel's; empty on another system, or where that part of it is not shown."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
