"""Volumes of the structures in label maps, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from monai.data import MetaTensor

from pipelines.metrics.confidence import Estimates
from pipelines.metrics.names import ESTIMATES
from pipelines.metrics.result_files import csv_table
from transforms.label_values import structures_of, value_counts
from transforms.spatial.geometry import voxel_ml


class Volume(TypedDict):
    """The size of a structure; `ml` is None for a 2D picture."""

    voxels: int
    ml: float | None


class CaseVolumes(Estimates):
    """The volumes of a case, and the network's own estimates, by class name."""

    case: str
    volumes: dict[str, Volume]


def measure(
    labels: MetaTensor, names: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Volume]:
    """Number of voxels and volume in ml of every foreground class of a label map (1, *shape), or of every region.

    Returns:
        Class or region name to volume, absent ones included.

    Examples:
        >>> import torch
        >>> labels = MetaTensor(torch.ones(1, 10, 10, 10, dtype=torch.uint8), affine=torch.eye(4))
        >>> measure(labels, {0: "background", 1: "liver"})
        {'liver': {'voxels': 1000, 'ml': 1.0}}
    """
    array = labels.as_tensor().cpu().numpy()
    counts = value_counts(array[0], max(names) + 1)
    unit = voxel_ml(labels.affine.cpu(), array.ndim - 1)
    sums = {
        name: int(sum(counts[value] for value in values))
        for name, values in structures_of(names, regions).items()
    }
    return {
        name: {"voxels": voxels, "ml": None if unit is None else voxels * unit}
        for name, voxels in sums.items()
    }


def write_volumes(path: Path, cases: Iterable[CaseVolumes]) -> None:
    """Write one line per case and class: case,class,ml,voxels and `pipelines.metrics.names.ESTIMATES`.

    The column ml is empty for 2D pictures; a missing estimate is an empty cell.

    Examples:
        >>> write_volumes(Path("volumes.csv"), [{"case": "a", "volumes": {"liver": {"voxels": 1000, "ml": 1.0}}}])
        >>> Path("volumes.csv").read_text().splitlines()
        ['case,class,ml,voxels,confidence,surface_entropy,pass_agreement', 'a,liver,1,1000,,,']
    """
    with csv_table(path, ["case", "class", "ml", "voxels", *ESTIMATES]) as write:
        for case in cases:
            estimates: Mapping[str, Any] = case
            for name, found in case["volumes"].items():
                ml = "" if found["ml"] is None else f"{found['ml']:.6g}"
                sure = [(estimates.get(key) or {}).get(name) for key in ESTIMATES]
                write(
                    [
                        case["case"],
                        name,
                        ml,
                        found["voxels"],
                        *["" if x is None else f"{x:.6f}" for x in sure],
                    ]
                )
