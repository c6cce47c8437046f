"""Which code ran, and where: what an MLflow run says of its own origin."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def code_version() -> dict[str, str]:
    """Tags that say which code ran: git commit, branch and whether it had uncommitted changes."""
    found: dict[str, str] = {}
    if not _in_repository():
        return {"mlflow.source.git.commit": "unknown: not a git checkout"}
    commands = {
        "mlflow.source.git.commit": ["rev-parse", "HEAD"],
        "mlflow.source.git.branch": ["rev-parse", "--abbrev-ref", "HEAD"],
        "git.dirty": ["status", "--porcelain", "--untracked-files=no"],
    }
    for tag, arguments in commands.items():
        result = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True)
        if result.returncode == 0:
            found[tag] = result.stdout.strip()
    if "git.dirty" in found:
        found["git.dirty"] = "true" if found["git.dirty"] else "false"
    return found


def _in_repository() -> bool:
    """Whether git tracks this very file: an installed copy may lie inside somebody else's repository."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--error-unmatch", str(Path(__file__).resolve())]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def environment() -> dict[str, str]:
    """Tags that say where it ran: host, device, versions."""
    names = ("torch", "monai", "pytorch-ignite", "mlflow", "numpy", "nibabel", "SimpleITK", "blosc2")
    tags = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):  # conda calls some of them otherwise
            tags[f"version.{name}"] = metadata.version(name)
    tags["version.python"] = platform.python_version()
    tags["host"] = platform.node()
    tags["host.cpus"] = str(os.cpu_count())
    if torch.cuda.is_available():
        tags["device"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    else:
        tags["device"] = platform.processor() or platform.machine()
    return tags
