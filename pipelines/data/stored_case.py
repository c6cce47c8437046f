"""One case of a patch store, read by the region."""

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
    """What `meta.json` says of a case in a store; class ids are text there, for they are keys in JSON.

    Attributes:
        format: of the entry.
        case: case id.
        image, label: paths of the files that it was made from; a list of an image in several files.
        sha256: "image", and "label" of a case with one, to the digest of the file's content.
        options: how the files were read.
        shape: (C, *grid) of the image.
        classes: label value to number of voxels.
        positions: label value to the first and the number of its positions in `positions.npy`.
        geometry, intensity: what `Preprocess` recorded.
        notices: what was noticed when the image was read and prepared.
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
    """One preprocessed case of a store: a handle of a few hundred bytes; the arrays stay on disk.

    Attributes:
        id: case id.
        shape: (C, X, Y, Z) of the image, (C, X, Y) in 2D.
        classes: voxels per label value present, background and what is to be ignored included; empty without a label.
        geometry, intensity: what `Preprocess` recorded: plain JSON types.
        notices: what was noticed when the image was read and prepared.
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
        """The `k`-th stored voxel index of a class; reads some bytes of one file."""
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
            # opened anew for every patch: 0.2 ms, and no handle or mapping outlives it
            return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[region]
        except (FileNotFoundError, RuntimeError) as error:
            raise StoreError(
                f"the stored arrays of case {self.id} cannot be read ({path}: {error}): either its source changed "
                "and another process rebuilt it, or the store was damaged; delete the folder if it still exists "
                "and start again."
            ) from error

    def _open_positions(self) -> np.ndarray:
        return np.load(self.path / "positions.npy", mmap_mode="r")


def read_meta(path: Path) -> Meta:
    try:
        return json.loads((path / "meta.json").read_bytes())
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not in the store: build the store first; if it was there, its source changed and "
            "another process rebuilt it, so start again."
        ) from None
