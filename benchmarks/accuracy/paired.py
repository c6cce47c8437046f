"""Table and picture of what `benchmarks.accuracy.contest` left in folders: Dice and HD95 over minutes, paired with nnU-Net.

    python -m benchmarks.accuracy.paired DIR [DIR ...] --picture dice_over_minutes.png

Per case the mean over the classes, then over the seeds; the interval is that of the mean difference over the cases
(95%, BCa bootstrap), as `python -m pipelines compare` has it. HD95 of a class that a side did not find at all is
missing; such cases are counted, not left out in silence.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from pipelines.metrics.statistics import paired

PEER = "nnunet"
METRICS = {"dice": "Dice", "hd95_mm": "HD95 mm"}


def results(folders: Sequence[Path]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The results of each side and number of minutes, one per seed."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.glob("*/result.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            found[result["side"], result["given_minutes"]].append(result)
    return found


def per_case(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Case to the mean over classes and seeds; NaN where a class has no value in one of them."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for case in run["cases"]:
            scores = [np.nan if value is None else value for value in case[metric].values()]
            values[case["case"]].append(float(np.mean(scores)))
    return {name: float(np.mean(each)) for name, each in sorted(values.items())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    found = results(given.folders)
    if not found:
        raise SystemExit(
            f"no result.json in {', '.join(map(str, given.folders))}: benchmarks.accuracy.contest makes them"
        )
    print(
        "| minutes | side | seeds | wall min | steps | Dice | against nnU-Net | HD95 mm | against nnU-Net | without HD95 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (side, minutes), runs in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        peer = found.get((PEER, minutes)) if side != PEER else None
        cells = [f"{minutes:g}", side, f"{len(runs)}", f"{np.mean([run['minutes'] for run in runs]):.1f}"]
        cells.append("/".join(f"{_steps(run)}" for run in runs))
        for metric in METRICS:
            values = per_case(runs, metric)
            cells.append(f"{np.nanmean(list(values.values())):.4f}")
            cells.append(_difference(values, per_case(peer, metric)) if peer else "")
        cells.append(f"{sum(np.isnan(value) for value in per_case(runs, 'hd95_mm').values())}")
        print(f"| {' | '.join(cells)} |")
    if given.picture:
        _draw(found, given.picture)


def _steps(run: Mapping[str, Any]) -> int:
    if "steps" in run:
        return int(run["steps"])
    plan = run["plan"]
    return int(plan["epochs"] * plan["patches_per_epoch"] // plan["batch_size"])


def _difference(values: Mapping[str, float], peer: Mapping[str, float]) -> str:
    if values.keys() != peer.keys():
        raise SystemExit("the sides were measured on different cases")
    found = paired(np.array(list(peer.values())), np.array(list(values.values())))
    return f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _draw(found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for side in sorted({side for side, _ in found}):
        points = sorted((minutes, runs) for (name, minutes), runs in found.items() if name == side)
        means = [[np.mean(list(per_case([run], "dice").values())) for run in runs] for _, runs in points]
        axes.plot([minutes for minutes, _ in points], [np.mean(each) for each in means], "o-", label=side)
    axes.set(
        xlabel="minutes of training, planning included",
        ylabel="mean Dice of the validation cases",
        xscale="log",
    )
    ticks = sorted({minutes for _, minutes in found})
    axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
