"""A folder of binary masks, one NIfTI file a class, to one label map: the layout of TotalSegmentator's data.

Files go by their names: ``liver.nii.gz`` is the mask of the class "liver".
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from transforms.errors import ImageError
from transforms.io.grids import grid_difference
from transforms.io.header import Header, check_spacing, image_suffix
from transforms.io.nifti import nifti_headers, read_nifti
from transforms.utils.image_paths import check_path
from transforms.utils.sentences import few_of

__all__ = ["check_masks", "is_mask_folder", "mask_files", "read_masks"]

_SUFFIXES = (".nii.gz", ".nii")
_SHOWN = 10
LARGEST_OVERLAP, FEWEST_VOXELS = 0.05, 10
"""Two masks may share this part of the smaller one, or this many voxels: borders that were drawn or resampled twice."""
_log = logging.getLogger(__name__)


def is_mask_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a label is a folder of NIfTI masks: it holds some, no folders, and no DICOM, to whose series they belong."""
    if not os.path.isdir(path):
        return False
    found, others = False, []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(_SUFFIXES):
                found = True
            elif entry.is_dir():
                return False
            elif not image_suffix(entry.name):
                others.append(entry.path)
    if not found or not others:
        return found
    from transforms.dicom.headers import holds_dicom

    return not any(holds_dicom(Path(other)) for other in others)


def mask_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Name of each class to its mask, by name; hidden files are no masks.

    Raises:
        ImageError: two files are masks of one class.
        OSError: the folder cannot be listed.
    """
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        suffix = image_suffix(name)
        if suffix not in _SUFFIXES:
            continue
        file = Path(folder) / name
        stem = name[: len(name) - len(suffix)]
        if stem in found:
            raise ImageError(f"{file}: {found[stem].name} is a mask of the same class; keep one.")
        found[stem] = file
    return found


def read_masks(
    folder: str | os.PathLike[str], labels: Mapping[int, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the masks of the classes that have a name; other masks in the folder are background.

    One mask is in memory beside the label map at any time. Where two masks share a voxel, the class with the higher id
    stays, with a notice; a class without a file is absent, with a notice.

    Args:
        folder: with ``<class>.nii.gz`` (or ``.nii``) for each class, zeros and ones.
        labels: class id to name, 0 the background.

    Returns:
        array: ``(X, Y, Z)`` uint8, or uint16 where an id needs it, in the memory order of the files.
        affine: 4x4, voxel index to millimetres, RAS+.

    Raises:
        ImageError: no class has a mask here, a mask cannot be read or is not binary, masks lie on different grids, or
            two of them share more than 5% of the smaller one and more than 10 voxels.
    """
    folder = Path(folder)
    files = _files_of_classes(folder, labels, quiet=False)
    merged: np.ndarray | None = None
    first: tuple[Path, Header] | None = None
    sizes: dict[int, int] = {}
    shared: Counter[tuple[int, int]] = Counter()
    for value, file in files.items():
        mask, affine = _mask(file)
        header = Header(mask.shape, 1, affine)
        if first is None or merged is None:
            first = (file, check_spacing(file, header))
            merged = np.zeros(mask.size, np.uint8 if max(files) <= 255 else np.uint16)
        _require_same_grid(*first, file, header)
        # Sparse: a mask is a small part of the image.
        places = np.flatnonzero(mask.reshape(-1, order="F"))
        sizes[value] = len(places)
        before = np.bincount(merged[places])
        shared.update({(int(other), value): int(before[other]) for other in np.flatnonzero(before) if other})
        merged[places] = value
    assert merged is not None
    assert first is not None
    assert labels is not None
    _judge_overlaps(folder, shared, sizes, labels)
    return merged.reshape(first[1].shape, order="F"), first[1].affine


def check_masks(folder: str | os.PathLike[str], labels: Mapping[int, str] | None) -> Header:
    """The grid that all masks of the classes share, from their headers alone.

    Raises:
        ImageError: as `read_masks`, for what the headers show.
    """
    folder = Path(folder)
    first: tuple[Path, Header] | None = None
    files = _files_of_classes(folder, labels, quiet=True).values()
    for file, header in nifti_headers(_existing(file) for file in files):
        first = first or (file, check_spacing(file, header))
        _require_same_grid(*first, file, header)
    assert first is not None
    return first[1]


def _files_of_classes(folder: Path, labels: Mapping[int, str] | None, quiet: bool) -> dict[int, Path]:
    """Class id to mask, in the order of the ids."""
    if not labels:
        raise ImageError(
            f"{folder}: masks go by the names of their classes; give them as labels (in a dataset.json)."
        )
    files = mask_files(folder)
    wanted = {value: name for value, name in sorted(labels.items()) if value != 0}
    found = {value: files[name] for value, name in wanted.items() if name in files}
    if not found:
        raise ImageError(
            f"{folder}: no mask of any class of the dataset ({few_of(wanted.values(), _SHOWN)}); the masks here are"
            f" {few_of(files, _SHOWN)}."
        )
    missing = [name for value, name in wanted.items() if value not in found]
    if missing and not quiet:
        _log.warning(
            "%s: %d of %d masks are missing (%s); their classes count as absent in this case.",
            folder,
            len(missing),
            len(wanted),
            few_of((f"{name}.nii.gz" for name in missing), _SHOWN),
        )
    return found


def _existing(file: Path) -> Path:
    check_path(file)
    if not file.exists():
        raise ImageError(f"{file}: no such file; it is a link to nothing, so fetch what belongs there.")
    return file


def _mask(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A mask as bool on its file's grid, and its affine."""
    array, affine = read_nifti(_existing(file), None)
    if array.dtype.kind == "f":
        binary = bool(((array == 0) | (array == 1)).all())
    else:
        binary = array.size == 0 or (array.min() >= 0 and array.max() <= 1)
    if not binary:
        low, high = array.min(), array.max()
        raise ImageError(
            f"{file}: not a binary mask, its values lie between {low:g} and {high:g}; store 1 inside of the class and 0"
            " outside."
        )
    mask = array[0]
    return mask.view(np.bool_) if mask.dtype == np.uint8 else mask.astype(np.bool_, order="K"), affine


def _require_same_grid(file: Path, grid: Header, other: Path, header: Header) -> None:
    difference = grid_difference(grid, header)
    if difference:
        raise ImageError(
            f"{other}: not on the grid of {file.name} beside it ({difference}); masks of one case must share one grid, so"
            " resample it with nearest neighbour."
        )


def _judge_overlaps(
    folder: Path, shared: Mapping[tuple[int, int], int], sizes: Mapping[int, int], labels: Mapping[int, str]
) -> None:
    if not shared:
        return
    shares = {pair: count / min(sizes[value] for value in pair) for pair, count in shared.items()}
    large = [
        pair for pair, share in shares.items() if share > LARGEST_OVERLAP and shared[pair] > FEWEST_VOXELS
    ]
    if large:
        one, two = max(large, key=lambda pair: shares[pair])
        more = f" (and {len(large) - 1} more pairs of masks overlap as much)" if len(large) > 1 else ""
        raise ImageError(
            f"{folder}: the masks of {labels[one]} and {labels[two]} share {shared[one, two]} voxels,"
            f" {shares[one, two]:.1%} of the smaller one{more}; a voxel has one class, so correct the masks or leave one of"
            " the classes out."
        )
    one, two = max(shares, key=lambda pair: shares[pair])
    _log.warning(
        "%s: masks overlap in %d voxels, most those of %s and %s (%.2g%% of the smaller one); the class that comes later in"
        " the dataset stays.",
        folder,
        sum(shared.values()),
        labels[one],
        labels[two],
        100 * shares[one, two],
    )
