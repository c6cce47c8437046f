"""The origin of an MLflow run: code version, uncommitted changes, environment and command."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from pipelines.utils.anonymity import is_anonymous, without_places
from pipelines.utils.call_stack import running_command
from pipelines.utils.cores import available_cores
from pipelines.utils.passwords import hidden, hidden_settings, without_passwords
from pipelines.utils.ranks import world_size

REPOSITORY = Path(__file__).resolve().parents[2]
DIFF_LIMIT = 2_000_000
"""Maximum number of characters of uncommitted changes, so that generated files do not fill a tracking server."""
_UNTRACKED_LIMIT = 500
_OF_A_FILE = re.compile(r"^(?=diff --git )", re.MULTILINE)
_SETTINGS = {"", ".ini", ".cfg", ".conf", ".cnf", ".env", ".properties", ".sh"}
"""Suffixes of settings files, in which text needs no quotes."""
# Arguments of `monai.bundle run` that are not ids of the config.
_RUN_WORDS = {"run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking", "args_file"}


def code_version() -> dict[str, str]:
    """Tags of the code version: git commit, branch and whether there were uncommitted changes."""
    found: dict[str, str] = {}
    if not _in_repository():
        return {"mlflow.source.git.commit": "unknown: not a git checkout"}
    commands = {
        "mlflow.source.git.commit": ["rev-parse", "HEAD"],
        "mlflow.source.git.branch": ["rev-parse", "--abbrev-ref", "HEAD"],
        "git.dirty": ["status", "--porcelain", "--untracked-files=no"],
    }
    for tag, arguments in commands.items():
        result = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if result.returncode == 0:
            found[tag] = result.stdout.strip()
    if "git.dirty" in found:
        found["git.dirty"] = "true" if found["git.dirty"] else "false"
        found["mlflow.source.git.dirty"] = found["git.dirty"]
    return found


def uncommitted(limit: int = DIFF_LIMIT) -> str:
    """The uncommitted changes: `git diff HEAD`, then the names of untracked files.

    `git apply` on the commit restores the changes, except for passwords, which are replaced by `***`; it ignores the
    lines that begin with #. Untracked files are listed but not copied, because they may be data. Empty if nothing was
    changed, outside of a git checkout, and in an anonymous command.

    Args:
        limit: maximum number of characters of the diff; a longer one is cut, which its last line states.
    """
    if is_anonymous() or not _in_repository():
        return ""
    changes = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    changes = "".join(_without_passwords(part) for part in _OF_A_FILE.split(changes))
    if len(changes) > limit:
        cut = changes.rfind("\n", 0, limit) + 1
        changes = f"{changes[:cut]}# cut off here: {len(changes) - cut} more characters\n"
    names = _git("ls-files", "--others", "--exclude-standard").splitlines()
    listed = [f"# untracked: {name}" for name in names[:_UNTRACKED_LIMIT]]
    if len(names) > _UNTRACKED_LIMIT:
        listed.append(f"# untracked: and {len(names) - _UNTRACKED_LIMIT} more")
    return changes + "".join(f"{line}\n" for line in listed)


def _without_passwords(change: str) -> str:
    """The diff of one file with its passwords hidden, by the rules for that type of file."""
    name = change.partition("\n")[0]
    return hidden_settings(change) if Path(name).suffix.lower() in _SETTINGS else hidden(change)


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True)
    return result.stdout.decode("utf-8", "replace") if result.returncode == 0 else ""


def _in_repository() -> bool:
    """Whether git tracks this file; an installed copy may lie inside an unrelated repository."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--error-unmatch", str(Path(__file__).resolve())]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def environment() -> dict[str, str]:
    """Tags of the environment: host, device, versions."""
    names = ("torch", "monai", "pytorch-ignite", "mlflow", "numpy", "nibabel", "SimpleITK", "blosc2")
    tags = {f"version.{name}": version for name, version in versions(*names).items()}
    tags["host"] = platform.node()
    tags["host.cpus"] = str(os.cpu_count())
    tags["host.cpus_available"] = str(available_cores())
    tags["host.cpu"] = cpu_model()
    tags["host.memory_gib"] = f"{psutil.virtual_memory().total / 2**30:.1f}"
    tags["host.os"] = platform.platform()
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        tags["device"] = ", ".join(gpu.name for gpu in found)
        tags["device.memory_gib"] = ", ".join(f"{gpu.total_memory / 2**30:.1f}" for gpu in found)
        tags["version.cuda"] = str(torch.version.cuda)
        tags["version.cudnn"] = str(torch.backends.cudnn.version())
    else:
        tags["device"] = tags["host.cpu"]
    tags["processes"] = str(world_size())
    return tags


def versions(*packages: str) -> dict[str, str]:
    """Version of Python and of the packages among `packages` that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # conda uses other names for some packages
            found[name] = metadata.version(name)
    if "torch" in packages:  # the metadata may lack the build, such as "+cu132"
        found["torch"] = str(torch.__version__)
    return found


def cpu_model() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):  # only Linux has this file
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def invocation() -> dict[str, Any]:
    """The command of the current bundle run.

    Returns:
        "command": arguments of the process; "config_files": the config and its overlays, in order;
        "overrides": id to value, as given on the command line or in MONAI's `--args_file`. The last two are
        empty outside of `monai.bundle run`. Passwords are replaced by `***`.
    """
    found: dict[str, Any] = {"command": list(sys.argv), "config_files": [], "overrides": {}}
    words = running_command()
    if words is not None:
        files = words.pop("config_file", None)
        found["config_files"] = [files] if isinstance(files, str) else list(files or [])
        found["overrides"] = {key: value for key, value in words.items() if key not in _RUN_WORDS}
    return {
        name: value if name == "config_files" else without_places(without_passwords(value))
        for name, value in found.items()
    }
