"""Volumes of the structures in label maps, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from monai.data import MetaTensor

from pipelines.metrics.result_files import csv_table
from transforms.label_values import value_counts
from transforms.spatial.geometry import voxel_ml


class Volume(TypedDict):
    """The size of a structure; `ml` is None for a 2D picture."""

    voxels: int
    ml: float | None


class CaseVolumes(TypedDict):
    """The volumes of a case, by class name."""

    case: str
    volumes: dict[str, Volume]


def measure(labels: MetaTensor, names: Mapping[int, str]) -> dict[str, Volume]:
    """Number of voxels and volume in ml of every foreground class of a label map (1, *shape), also of absent ones.

    Returns:
        Class name to volume.

    Examples:
        >>> import torch
        >>> labels = MetaTensor(torch.ones(1, 10, 10, 10, dtype=torch.uint8), affine=torch.eye(4))
        >>> measure(labels, {0: "background", 1: "liver"})
        {'liver': {'voxels': 1000, 'ml': 1.0}}
    """
    array = labels.as_tensor().cpu().numpy()
    counts = value_counts(array[0], max(names) + 1)
    unit = voxel_ml(labels.affine.cpu(), array.ndim - 1)
    return {
        name: {"voxels": int(counts[value]), "ml": None if unit is None else int(counts[value]) * unit}
        for value, name in sorted(names.items())
        if value != 0
    }


def write_volumes(path: Path, cases: Iterable[CaseVolumes]) -> None:
    """Write one line per case and class: case,class,ml,voxels; ml is empty for 2D pictures.

    Examples:
        >>> write_volumes(Path("volumes.csv"), [{"case": "a", "volumes": {"liver": {"voxels": 1000, "ml": 1.0}}}])
        >>> Path("volumes.csv").read_text().splitlines()
        ['case,class,ml,voxels', 'a,liver,1,1000']
    """
    with csv_table(path, ["case", "class", "ml", "voxels"]) as write:
        for case in cases:
            for name, found in case["volumes"].items():
                ml = "" if found["ml"] is None else f"{found['ml']:.6g}"
                write([case["case"], name, ml, found["voxels"]])
