"""A plan and the dataset that it was made from, as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.planning.records import QUANTILES, Fingerprint, Intensities, Plan
from pipelines.planning.table import as_text
from pipelines.utils.html import write_page
from pipelines.utils.svg import Plot

ROWS = 1000
"""Cases in the table."""
_BINS, _HEIGHT = 120, 140
_AXES = ("right", "anterior", "superior")


def write_plan_page(path: Path, plan: Plan, found: Fingerprint) -> None:
    """Write the page: the plan with its reasons, then what the dataset looks like.

    Args:
        path: of the page.
        plan: what was chosen.
        found: the dataset.
    """
    solid = len(found["cases"][0]["shape"]) == 3
    names = {value: name for value, name in found["labels"].items() if value != "0"}
    unit = "ml" if solid else "mm²"
    write_page(
        path,
        Path(__file__).with_suffix(".html"),
        title=f"Plan for {found['name']}",
        facts=_facts(plan, found),
        notices=plan.notices,
        settings=list(_settings(plan)),
        intensities=_intensities(plan, found),
        geometry=_geometry(found),
        volumes=_volumes(found, names, unit),
        unit=unit,
        classes=[_class(found, value, name) for value, name in names.items()],
        cases=[
            {
                "case": case["case"],
                "shape": " x ".join(map(str, case["shape"])),
                "spacing": " x ".join(f"{mm:.4g}" for mm in case["spacing"]),
                "orientation": case["orientation"],
                "classes": sum(1 for record in case["classes"].values() if record["voxels"]),
            }
            for case in found["cases"]
        ],
        rows=ROWS,
    )


def _facts(plan: Plan, found: Fingerprint) -> dict[str, str]:
    facts = {"cases": str(len(found["cases"])), "classes": str(len(found["labels"]) - 1)}
    if plan.minutes is not None:
        facts["expected to take"] = f"{plan.minutes:.0f} minutes on this machine"
    if plan.cost is not None:
        facts["a step"] = f"{plan.cost.seconds:.3g} s and {plan.cost.memory / 1e9:.2f} GB"
    return facts


def _settings(plan: Plan) -> Iterator[dict[str, str]]:
    for name, (value, reason) in plan.values.items():
        yield {"name": name, "value": as_text(value), "reason": reason}
    for name, value in plan.given.items():
        yield {"name": name, "value": as_text(value), "reason": "given"}


def _intensities(plan: Plan, found: Fingerprint) -> dict[str, Plot]:
    """A histogram per channel: inside the classes over outside of them."""
    window = plan.values["window"].value if "window" in plan.values else plan.given.get("window")
    plots = {}
    for channel in range(len(found["cases"][0]["channels"])):
        records = [case["channels"][channel] for case in found["cases"]]
        inside = [record["inside"] for record in records if record["inside"]["voxels"]]
        outside = [record["outside"] for record in records if record["outside"]["voxels"]]
        values = np.array([record["quantiles"] for record in [*inside, *outside]])
        # What is rarer than one voxel in 200 would only make the rest narrow.
        low, high = float(np.median(values[:, 1])), float(np.median(values[:, -2]))
        low = min(low, *(record["quantiles"][1] for record in inside)) if inside else low
        high = max(high, *(record["quantiles"][-2] for record in inside)) if inside else high
        names = found["channel_names"]
        name = names[channel] if channel < len(names) else f"channel {channel}"
        plot = Plot(f"intensities of {name}", low, high if high > low else low + 1, 1, _HEIGHT)
        plot.axis("HU" if all(record["hounsfield"] for record in records) else "value")
        for kind, part in (("outside", outside), ("run0", inside)):
            _histogram(plot, part, kind)
        for end in window or ():
            if plot.low <= end <= plot.high:
                plot.vertical("zero", float(end))
        plots[name] = plot
    return plots


def _histogram(plot: Plot, records: Sequence[Intensities], kind: str) -> None:
    """Bars whose heights are shares of the voxels, the highest as high as the plot."""
    if not records:
        return
    edges = np.linspace(plot.low, plot.high, _BINS + 1)
    below = np.array(QUANTILES) / 100
    share = np.zeros(_BINS)
    for record in records:
        # Equal quantiles would make the share below a value ambiguous: the last one counts.
        values, last = np.unique(np.array(record["quantiles"])[::-1], return_index=True)
        upto = np.interp(edges, values, below[::-1][last], left=0.0, right=1.0)
        share += np.diff(upto) * record["voxels"]
    group = plot.add("g", kind)
    for start, stop, height in zip(
        edges, edges[1:], share / max(share.max(), 1e-12) * plot.bottom, strict=False
    ):
        x = plot.x(float(start))
        width = plot.x(float(stop)) - x
        plot.add(
            "rect", "", within=group, x=x, y=plot.bottom - float(height), width=width, height=float(height)
        )


def _geometry(found: Fingerprint) -> dict[str, Plot]:
    dims = len(found["cases"][0]["shape"])
    axes = _AXES[:dims] if dims == 3 else ("columns", "rows")
    sizes = {axis: np.array([c["shape"][i] for c in found["cases"]], float) for i, axis in enumerate(axes)}
    spacings = {axis: np.array([c["spacing"][i] for c in found["cases"]]) for i, axis in enumerate(axes)}
    names = [case["case"] for case in found["cases"]]
    return {
        "voxels per axis": _boxes(sizes, "voxels", names),
        "millimetres per voxel": _boxes(spacings, "mm", names),
    }


def _volumes(found: Fingerprint, names: dict[str, str], unit: str) -> dict[str, Plot]:
    cases = [case["case"] for case in found["cases"]]
    columns = {}
    for value, name in names.items():
        records = [case["classes"][value] for case in found["cases"]]
        volumes = [record["millilitres"] if record["voxels"] else np.nan for record in records]
        columns[name] = np.log10(np.array(volumes))
    if not any(np.isfinite(column).any() for column in columns.values()):
        return {}
    return {f"size of each class (powers of ten of 1 {unit})": _boxes(columns, f"log10 {unit}", cases)}


def _boxes(columns: dict[str, np.ndarray], unit: str, cases: Sequence[str]) -> Plot:
    """A row per column: box and points."""
    values = np.concatenate([column[np.isfinite(column)] for column in columns.values()])
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.03 or 0.5
    plot = Plot(unit, low - margin, high + margin, len(columns))
    plot.axis(unit)
    plot.boxes(columns, lambda index, value: f"{cases[index]}: {value:.4g} {unit}")
    return plot


def _class(found: Fingerprint, value: str, name: str) -> dict[str, Any]:
    records = [case["classes"][value] for case in found["cases"]]
    present = [record for record in records if record["voxels"]]
    pairs = [pair for pair in found["pairs"] if int(value) in (pair["left"], pair["right"])]
    other = [p["right"] if p["left"] == int(value) else p["left"] for p in pairs]
    return {
        "name": name,
        "cases": len(present),
        "volume": f"{np.median([r['millilitres'] for r in present]):.4g}" if present else "",
        "smallest": min((r["smallest_component"] for r in present), default=""),
        "parts": f"{np.median([r['components'] for r in present]):g}" if present else "",
        "pair": ", ".join(
            f"{found['labels'][str(o)]} (by {p['by']})" for o, p in zip(other, pairs, strict=True)
        ),
    }
