"""The commands of a page of the docs, read from there and run as a reader types them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import shell_blocks

PAGES = REPOSITORY / "docs"
EXAMPLES: dict[str, object] = {"examples/": f"{REPOSITORY}/examples/"}
"""The examples of the repository, in the working directory of a reader."""


def page_commands(page: str, section: str, replaced: Mapping[str, object]) -> list[str]:
    """The shell blocks of a section of a page.

    Args:
        page: its name in docs/.
        section: its heading; "" is what stands above the first.
        replaced: texts of the commands, such as BUNDLE, and what stands for them on this machine. Each has to be there.
    """
    text = "\0".join(shell_blocks(PAGES / page)[section])
    for word, own in replaced.items():
        assert word in text, f"{section or 'the begin'} of {page} has no {word} any more"
        text = text.replace(word, str(own))
    return text.split("\0")


def run_commands(commands: str, folder: Path, **environment: str) -> str:
    """Run commands in a folder; the first that fails ends the test. Returns what they print."""
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env=environment_of_reader(**environment),
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode != 0:
        pytest.fail(f"{commands}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def environment_of_reader(**environment: str) -> dict[str, str]:
    """Variables with which `python` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
