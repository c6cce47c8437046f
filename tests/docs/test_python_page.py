"""docs/python.md does what it says, from its first block to its last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from docs.import_map import REPOSITORY
from tests.docs.pages import python_blocks


def test_the_blocks_run_in_one_session_and_print_what_is_said_beside_them(tmp_path: Path) -> None:
    blocks = python_blocks(REPOSITORY / "docs" / "python.md")
    assert len(blocks) >= 6
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    prints = [line for block in blocks for line in block.splitlines() if line.lstrip().startswith("print(")]
    for line, printed in zip(prints, done.stdout.splitlines(), strict=True):
        assert line.partition("  # ")[2] in ("", printed)
    reference = np.asarray(nib.load(tmp_path / "balls" / "labelsTr" / "large.nii.gz").dataobj)
    threshold = np.asarray(nib.load(tmp_path / "threshold.nii.gz").dataobj)
    assert 2 * (threshold & reference).sum() / (threshold.sum() + reference.sum()) > 0.9
    assert nib.load(tmp_path / "predicted.nii.gz").shape == reference.shape
