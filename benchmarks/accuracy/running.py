"""What the contests of accuracy share: commands run from the repository's root, and their logs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(words: list[str], log: Path, **environment: str) -> None:
    """Run a command, its output in a file.

    Raises:
        SystemExit: it failed.
    """
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed with {done.returncode}; {log} says why")
