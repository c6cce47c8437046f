"""A run whose spool's disk fills up in its middle: `python -m tests.e2e.filled URI` with SEGBUNDLES_SPOOL there."""

import os
import sys
from pathlib import Path

import numpy as np

from pipelines.tracking.run import Tracking


def fill(folder: Path) -> None:
    """Leave no byte of room on the disk of a folder."""
    with (folder / "filler").open("wb", buffering=0) as stream:
        size = 1 << 16
        while size:
            try:
                stream.write(os.urandom(size))
            except OSError:
                size //= 2


def main(uri: str) -> None:
    spool = Path(os.environ["SEGBUNDLES_SPOOL"])
    model = spool.parent.parent / "model"
    with Tracking("filled", "r", uri, finish_seconds=20, system_metrics=None) as tracking:
        tracking.start()
        tracking.metrics({"loss": 1.0}, 0)
        tracking.json({"n": 1}, "before.json")
        fill(spool.parent)
        for step in range(1, 1500):
            tracking.metrics({"loss": 1 / step}, step)
        for step in range(3):
            tracking.image("case_a", np.full((40, 60, 3), step, np.uint8), step)
        tracking.json({"n": 1}, "results/after.json")
        tracking.table("table.json", {"case": ["a"]})
        tracking.artifact(model / "last.ckpt", "checkpoint")
        tracking.artifacts(model, "model")
        tracking.register("filled", "model", 0.9)
    print("the training is whole")


if __name__ == "__main__":
    main(sys.argv[1])
