"""One case of a patch store, from which single regions are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import blosc2
import numpy as np

from transforms.errors import UserError
from transforms.intensity import IntensityRecord
from transforms.spatial.geometry import GeometryRecord

if TYPE_CHECKING:
    from typing import NotRequired

    from pipelines.data.cases import Options


class StoreError(UserError, ValueError):
    """The patch store cannot be built or read; the message lists every case concerned."""


class Meta(TypedDict):
    """The content of `meta.json` of a stored case; class ids are text, because JSON keys are.

    Attributes:
        format: version of the entry's format.
        case: case id.
        image, label: paths of the source files; a list if the image has several files.
        sha256: "image", and "label" if the case has one, to the digest of the file's content.
        options: how the files were read.
        shape: (C, *grid) of the image.
        classes: label value to number of voxels.
        positions: label value to the index of its first position in `positions.npy` and their number.
        geometry, intensity: the records of `Preprocess`.
        notices: warnings from reading and preprocessing the image.
    """

    format: int
    case: str
    image: str | list[str]
    label: str | None
    sha256: dict[str, str]
    options: NotRequired[Options]
    shape: list[int]
    classes: dict[str, int]
    positions: dict[str, tuple[int, int]]
    geometry: GeometryRecord
    intensity: IntensityRecord
    notices: NotRequired[list[str]]


class StoredCase:
    """One preprocessed case of a store; holds only its metadata, the arrays stay on disk.

    Attributes:
        id: case id.
        shape: (C, X, Y, Z) of the image, (C, X, Y) in 2D.
        classes: voxels per label value present, background and ignored voxels included; empty without a label.
        geometry, intensity: the records of `Preprocess`, as plain JSON types.
        notices: warnings from reading and preprocessing the image.
    """

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.id: str = meta["case"]
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.classes: dict[int, int] = {int(k): v for k, v in meta["classes"].items()}
        self.geometry: GeometryRecord = meta["geometry"]
        self.intensity: IntensityRecord = meta["intensity"]
        self.sha256: dict[str, str] = meta["sha256"]
        self.notices: list[str] = meta.get("notices", [])
        self._positions: dict[int, tuple[int, int]] = {
            int(k): (first, count) for k, (first, count) in meta["positions"].items()
        }

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """(X, Y, Z), or (X, Y) in 2D."""
        return self.shape[1:]

    @property
    def has_label(self) -> bool:
        """Whether the case has a label map."""
        return bool(self.classes)

    @property
    def foreground(self) -> tuple[int, ...]:
        """The label values present other than 0 and what is to be ignored, ascending."""
        return tuple(value for value in self._positions if value != 0)

    @property
    def annotated(self) -> dict[int, int]:
        """Voxels per annotated value, background included, of a label map with voxels to ignore; else empty."""
        if not any(value != 0 and value not in self._positions for value in self.classes):
            return {}
        return {value: count for value, count in self.classes.items() if value in self._positions}

    def num_positions(self, label: int) -> int:
        """How many foreground positions of a class are stored: all of its voxels, at most `MAX_POSITIONS`."""
        return self._positions[label][1]

    def position(self, label: int, k: int) -> tuple[int, ...]:
        """The `k`-th stored voxel index of a class."""
        offset, count = self._positions[label]
        if not 0 <= k < count:
            raise IndexError(f"case {self.id} stores {count} positions of class {label}, got index {k}")
        return tuple(int(i) for i in self._open_positions()[offset + k])

    def positions(self, label: int) -> np.ndarray:
        """Stored voxel indices of a class, (N, dims) int64; empty when the class is absent."""
        if label not in self._positions:
            return np.empty((0, len(self.spatial_shape)), np.int64)
        offset, count = self._positions[label]
        return self._open_positions()[offset : offset + count].astype(np.int64)

    def read(self, region: Sequence[slice]) -> np.ndarray:
        """Image codes of a region, int16 (C, ...).

        Args:
            region: one slice per spatial axis, inside the volume, step 1.
        """
        return self._read("image.b2nd", (slice(0, self.shape[0]), *region))

    def read_label(self, region: Sequence[slice]) -> np.ndarray:
        """Label values of a region, uint8 or uint16, without a channel axis."""
        if not self.has_label:
            raise StoreError(
                f"case {self.id} was stored without a label: name its label file in the dataset."
            )
        return self._read("label.b2nd", tuple(region))

    def _read(self, name: str, region: tuple[slice, ...]) -> np.ndarray:
        path = self.path / name
        try:
            # Opened for every patch, which takes 0.2 ms, so that no file handles or memory mappings accumulate.
            return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[region]
        except (FileNotFoundError, RuntimeError) as error:
            raise StoreError(
                f"the stored arrays of case {self.id} cannot be read ({path}: {error}): either its source files changed"
                " and another process built the case again, or the store is damaged; delete the folder"
                f" {self.path} if it still exists and start again."
            ) from error

    def _open_positions(self) -> np.ndarray:
        return np.load(self.path / "positions.npy", mmap_mode="r")


def read_meta(path: Path) -> Meta:
    try:
        return json.loads((path / "meta.json").read_bytes())
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not in the store: build the store first. If it was built, the source files changed and "
            "another process built the case again; start again."
        ) from None
