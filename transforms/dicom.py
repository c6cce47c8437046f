"""A folder of CT slices to a volume in Hounsfield units and world space.

This reader takes clean series only: single-frame CT images (DICOM PS3.3 A.3) of one series, on parallel planes at even
distances along the slice normal. Everything else raises :class:`ImageError` with the finding and what to do.

Geometry follows PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1): the centre of the voxel in column i and row j of a slice lies
at ``ImagePositionPatient + i * spacing_column * row_cosines + j * spacing_row * column_cosines`` in LPS+. Neither
file names, nor InstanceNumber, SliceLocation, SliceThickness or GantryDetectorTilt decide about the order of slices
or the distance between them; positions do. Values follow the modality LUT, PS3.3 C.11.1:
``stored value * RescaleSlope + RescaleIntercept``, slice by slice.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from monai.data import ImageReader
from pydicom.uid import UID, MediaStorageDirectoryStorage, RLELossless

from transforms.errors import ImageError

__all__ = ["DicomSeriesReader", "Series", "read_series", "scan_series"]

SPACING_TOLERANCE_MM = 0.01
SPACING_TOLERANCE = 0.01
"""A slice may lie this far (mm, or times the slice distance, whichever is more) from its even position."""
ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of a direction cosine between slices; 1e-4 moves a corner 250 mm away by 0.025 mm."""
PIXEL_SPACING_TOLERANCE = 1e-4
"""Largest relative difference of the pixel spacing between slices."""
UNIT_TOLERANCE = 1e-3
"""How far direction cosines may be from unit length and from a right angle (they are rounded decimals)."""
TILT_DEGREES = 0.05
"""Angle between slice normal and stacking direction from which a series counts as tilted."""

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesDescription",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
]
_NUMBERS = {
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "PixelSpacing": 2,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
}
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Pixels:
    """Where and how the pixels of one slice are stored."""

    path: Path
    syntax: UID
    offset: int
    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool


@dataclass(frozen=True)
class Series:
    """One clean CT series, checked, without its pixels.

    Attributes
    ----------
    folder : Path
        Where it lies.
    files : tuple of Path
        Slices in the order of their position along the slice normal (row cosines x column cosines).
    shape : tuple of int
        ``(X, Y, Z)``: columns, rows, slices.
    affine : numpy.ndarray
        4x4 float64, voxel index ``(column, row, slice)`` to millimetres, RAS+.
    slopes, intercepts : tuple of float
        Modality LUT of each slice.
    uid, description : str
        SeriesInstanceUID (0020,000E) and SeriesDescription (0008,103E).
    lossy : bool
        The transfer syntax of a slice is lossy; its values are near those of the scanner, not equal.
    """

    folder: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    uid: str = ""
    description: str = ""
    lossy: bool = False
    pixels: tuple[_Pixels, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: pydicom.Dataset
    syntax: UID
    size: int
    offset: int

    def get(self, keyword: str, default: Any = None) -> Any:
        value = self.header.get(keyword, default)
        return default if value is None else value

    def text(self, keyword: str) -> str:
        return str(self.get(keyword, "")).strip()

    def numbers(self, keyword: str) -> np.ndarray:
        value = self.header[keyword].value
        try:
            return np.asarray(value, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ImageError(f"{self.path}: {keyword} is {value}, which are no numbers. {_EXPORT}") from error

    def integer(self, keyword: str, default: int | None = None) -> int:
        value = self.get(keyword, default)
        if isinstance(value, str) or not hasattr(value, "__int__"):
            raise ImageError(f"{self.path}: {keyword} is {value!r}, not a whole number. {_EXPORT}")
        return int(value)

    def pixels(self) -> _Pixels:
        return _Pixels(
            path=self.path,
            syntax=self.syntax,
            offset=self.offset,
            rows=self.integer("Rows"),
            columns=self.integer("Columns"),
            allocated=self.integer("BitsAllocated"),
            stored=self.integer("BitsStored"),
            signed=self.integer("PixelRepresentation") == 1,
        )


def scan_series(folder: str | Path) -> Series:
    """Read and check the headers of all slices in a folder (files in it, not in its subfolders).

    Files that are no DICOM, and DICOMDIR, are passed over.

    Raises
    ------
    ImageError
        For anything but exactly one clean series; the message names a file, the finding, and what to do.
    """
    folder = Path(folder)
    slices = _scan(folder)
    _check_one_series(folder, slices)
    for item in slices:
        _check_slice(item)
    _check_common_grid(slices)
    return _arrange(folder, slices)


def read_series(folder: str | Path | Series) -> tuple[np.ndarray, np.ndarray]:
    """Read a CT series.

    Parameters
    ----------
    folder : str, Path or Series
        The folder, or what :func:`scan_series` returned for it.

    Returns
    -------
    array : numpy.ndarray
        ``(X, Y, Z)`` in Hounsfield units; int16 if that is exact for every slice, else float32.
    affine : numpy.ndarray
        4x4 float64, voxel index to millimetres, RAS+.

    Raises
    ------
    ImageError
        As :func:`scan_series`, and for pixel data that are cut off or cannot be decoded.
    """
    series = folder if isinstance(folder, Series) else scan_series(folder)
    if series.lossy:
        _log.warning(
            "%s: compressed with loss; values are near those of the scanner, not equal.", series.folder
        )
    columns, rows, count = series.shape
    scale = list(zip(series.slopes, series.intercepts, strict=True))
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in scale)
    if whole:
        volume = np.empty((count, rows, columns), dtype=np.int16)

        def exact(index: int) -> bool:
            stored = _stored_values(series.pixels[index])
            slope, intercept = (int(value) for value in scale[index])
            ends = [int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept]
            if min(ends) < -32768 or max(ends) > 32767:
                return False
            if slope == 1 and stored.dtype == np.int16 and -32768 <= intercept <= 32767:
                np.add(stored, np.int16(intercept), out=volume[index])
            else:
                volume[index] = stored.astype(np.int64) * slope + intercept
            return True

        if all(_parallel(exact, range(count))):
            return volume.transpose(2, 1, 0), series.affine
    wide = np.empty((count, rows, columns), dtype=np.float32)

    def rounded(index: int) -> None:
        slope, intercept = scale[index]
        wide[index] = _stored_values(series.pixels[index]).astype(np.float64) * slope + intercept

    _parallel(rounded, range(count))
    return wide.transpose(2, 1, 0), series.affine


class DicomSeriesReader(ImageReader):
    """MONAI image reader for a folder of CT slices: ``LoadImaged(keys, reader=DicomSeriesReader)``.

    Values are Hounsfield units, the affine is RAS+. ``read`` only takes note of the folder and ``get_data`` does the
    work: MONAI's LoadImage answers an error in ``read`` by trying its own, unchecked DICOM readers, so that a series
    refused there would be read wrongly in silence.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Return True for a folder, or a sequence that holds one folder."""
        names = _as_sequence(filename)
        return len(names) == 1 and os.path.isdir(names[0])

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """Return the folder as a path, untouched."""
        return tuple(Path(name) for name in _as_sequence(data))

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the volume ``(X, Y, Z)`` and its meta data.

        Raises
        ------
        ImageError
            If the folder is not exactly one clean CT series.
        """
        names = _as_sequence(img)
        if len(names) != 1:
            raise ImageError(
                f"{names[0]}: {len(names)} paths were given for one image; give the folder of the series."
            )
        folder = Path(names[0])
        if not folder.is_dir():
            raise ImageError(f"{folder}: not a folder; give the folder that holds the slices of the series.")
        series = scan_series(folder)
        array, affine = read_series(series)
        return array, {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(array.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
            "series_uid": series.uid,
            "series_description": series.description,
        }


def _as_sequence(names: Any) -> list[Any]:
    return [names] if isinstance(names, (str, os.PathLike)) else list(names)


def _parallel(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Map with threads, which wait for slow disks side by side (GDCM itself holds the interpreter's lock)."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, items))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


# --- scanning -------------------------------------------------------------------------------------------------------


def _scan(folder: Path) -> list[_Slice]:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder.")
    entries = sorted(folder.iterdir())
    subfolders = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if not entry.is_dir()]
    slices = [item for item in _parallel(_read_header, files) if item is not None]
    nested = _nested_dicom(subfolders)
    if not slices:
        if nested is not None:
            raise ImageError(
                f"{folder}: no DICOM files here, but in {nested.parent}; give the folder of one series."
            )
        raise ImageError(
            f"{folder}: no DICOM files here; give a folder of CT slices (or convert the image to NIfTI)."
        )
    if nested is not None:
        raise ImageError(
            f"{folder}: {len(slices)} DICOM files here and more in subfolders ({nested}); it is not certain which belong"
            " together. Put the slices of one series, and nothing else, into one folder."
        )
    return slices


def _nested_dicom(subfolders: list[Path]) -> Path | None:
    for subfolder in subfolders:
        for parent, _, names in os.walk(subfolder):
            for name in sorted(names):
                path = Path(parent, name)
                if path.is_file() and name.upper() != "DICOMDIR" and _is_dicom(path):
                    return path
    return None


def _read_header(path: Path) -> _Slice | None:
    """Return the header of a DICOM file; None for what is none (DICOMDIR included)."""
    if not path.is_file() or path.name.upper() == "DICOMDIR" or path.name.startswith("."):
        return None
    with path.open("rb") as stream:
        start = stream.read(132)
        if start[128:] != b"DICM":
            if start[:2] == b"\x08\x00" and start[3:4] == b"\x00":
                raise ImageError(
                    f"{path}: DICOM data without the preamble and file meta information of PS3.10, so the encoding is"
                    " unknown; export the series again as standard files."
                )
            if path.suffix.lower() in _DICOM_ENDINGS:
                raise ImageError(
                    f"{path}: named like a slice but no DICOM file; it is damaged. Copy the series again."
                )
            return None
        stream.seek(0)
        size = os.fstat(stream.fileno()).st_size
        try:
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
            if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                return None
            for keyword in _TAGS:  # parsed when first asked for: now, where an error can name the file
                header.get(keyword)
            syntax = UID(header.file_meta.TransferSyntaxUID)
            if not syntax.is_transfer_syntax:
                raise ValueError(f"unknown transfer syntax {syntax}")
            return _Slice(path, header, syntax, size, stream.tell())
        except Exception as error:  # a parser of damaged bytes raises whatever it likes
            raise ImageError(
                f"{path}: the DICOM header is damaged ({error}); copy the series again."
            ) from error


# --- checks ---------------------------------------------------------------------------------------------------------


def _check_one_series(folder: Path, slices: list[_Slice]) -> None:
    by_series: dict[tuple[str, str], list[_Slice]] = {}
    for item in slices:
        by_series.setdefault((item.text("SeriesInstanceUID"), item.text("Modality")), []).append(item)
    if len(by_series) > 1:
        found = "; ".join(
            f"{modality or 'unknown modality'} {group[0].text('SeriesDescription') or uid or 'without a series'}:"
            f" {len(group)} file(s) such as {group[0].path.name}"
            for (uid, modality), group in list(by_series.items())[:5]
        )
        raise ImageError(
            f"{folder}: {len(by_series)} series in one folder ({found}); keep the files of one CT series and move the"
            " others away."
        )
    for item in slices:
        modality = item.text("Modality")
        if modality != "CT":
            raise ImageError(
                f"{item.path}: modality {modality or 'missing'}, not CT; give a folder of CT slices."
            )
        if "LOCALIZER" in [str(value).upper() for value in _values(item.get("ImageType", []))]:
            raise ImageError(
                f"{item.path}: a localizer (scout view, {_spot(item)}) among {len(slices)} files; move it out of the"
                " folder."
            )


def _values(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _spot(item: _Slice) -> str:
    """Say size and position of a slice as far as they are known."""
    position = item.get("ImagePositionPatient")
    where = f", at ({', '.join(f'{float(v):.4g}' for v in position)}) mm" if position else ""
    return f"{item.get('Columns', '?')} x {item.get('Rows', '?')} pixels{where}"


def _check_slice(item: _Slice) -> None:
    path = item.path
    frames = item.integer("NumberOfFrames", 1)
    if "Enhanced" in item.get("SOPClassUID", UID("")).name or frames > 1:
        raise ImageError(
            f"{path}: a multi-frame image ({item.get('SOPClassUID', UID('')).name}, {frames} frames), which this reader"
            " does not take; export it as single-frame CT, or convert it to NIfTI with a tool that knows it."
        )
    for keyword, length in _NUMBERS.items():
        value = item.get(keyword)
        if value is None or value == "" or value == []:
            raise ImageError(
                f"{path}: {keyword} is missing; without it the slice {_LACK[keyword]}. {_EXPORT}"
            )
        numbers = item.numbers(keyword)
        if len(numbers) != length or not np.isfinite(numbers).all():
            raise ImageError(f"{path}: {keyword} is {value}, not {length} number(s). {_EXPORT}")
    if item.get("ModalityLUTSequence"):
        raise ImageError(
            f"{path}: values come through a modality LUT table instead of slope and intercept. {_EXPORT}"
        )
    if float(item.get("RescaleSlope")) == 0:
        raise ImageError(f"{path}: RescaleSlope is 0, so all values are lost. {_EXPORT}")
    kind = item.text("RescaleType").upper()
    if kind not in ("", "HU", "US"):
        raise ImageError(
            f"{path}: values are in {kind!r} (RescaleType), not Hounsfield units; use the CT series."
        )
    photometric = item.text("PhotometricInterpretation")
    if photometric != "MONOCHROME2" or item.integer("SamplesPerPixel", 1) != 1:
        raise ImageError(
            f"{path}: PhotometricInterpretation is {photometric or 'missing'}, a CT image is MONOCHROME2 (PS3.3 C.8.2.1);"
            " whether its values are inverted or colours is uncertain. Use the original series."
        )
    allocated, stored = item.integer("BitsAllocated"), item.integer("BitsStored")
    rows, columns = item.integer("Rows"), item.integer("Columns")
    if item.integer("PixelRepresentation") not in (0, 1):
        raise ImageError(
            f"{path}: PixelRepresentation is {item.get('PixelRepresentation')}, not 0 or 1. {_EXPORT}"
        )
    if rows < 1 or columns < 1:
        raise ImageError(
            f"{path}: the image has no pixels ({columns} x {rows}); it is damaged. Copy the series again."
        )
    if (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= allocated
        or item.integer("HighBit", stored - 1) != stored - 1
    ):
        raise ImageError(
            f"{path}: {stored} bits stored in {allocated} with the high bit {item.get('HighBit')} is no layout of a CT"
            f" image. {_EXPORT}"
        )
    if (
        not (item.syntax.is_encapsulated or item.syntax.is_deflated)
        and item.size < rows * columns * allocated // 8
    ):
        raise ImageError(
            f"{path}: cut off: {item.size} bytes, its {columns} x {rows} pixels alone need"
            f" {rows * columns * allocated // 8}. Copy the series again."
        )
    cosines = item.numbers("ImageOrientationPatient").reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > 2 * UNIT_TOLERANCE:
        raise ImageError(
            f"{path}: ImageOrientationPatient {cosines.ravel().tolist()} is no pair of perpendicular unit vectors."
            f" {_EXPORT}"
        )
    if (item.numbers("PixelSpacing") <= 0).any():
        raise ImageError(
            f"{path}: PixelSpacing is {item.get('PixelSpacing')}, which must be positive. {_EXPORT}"
        )


_EXPORT = "Export the series again from its source."
_LACK = {
    "ImageOrientationPatient": "has no known orientation",
    "ImagePositionPatient": "has no known place in the stack",
    "PixelSpacing": "has no known size in mm",
    "RescaleSlope": "has no Hounsfield units",
    "RescaleIntercept": "has no Hounsfield units",
}


def _check_common_grid(slices: list[_Slice]) -> None:
    sizes: dict[tuple[int, int], list[_Slice]] = {}
    for item in slices:
        sizes.setdefault((item.integer("Columns"), item.integer("Rows")), []).append(item)
    if len(sizes) > 1:
        usual, odd = _usual_and_odd(list(sizes.values()))
        raise ImageError(
            f"{odd.path}: {odd.get('Columns')} x {odd.get('Rows')} pixels, the {len(usual)} others like"
            f" {usual[0].path.name} have {usual[0].get('Columns')} x {usual[0].get('Rows')}; move away what does not"
            " belong to the series."
        )
    frames: dict[str, list[_Slice]] = {}
    for item in slices:
        frames.setdefault(item.text("FrameOfReferenceUID"), []).append(item)
    if len(frames) > 1:
        _, odd = _usual_and_odd(list(frames.values()))
        raise ImageError(
            f"{odd.path}: another frame of reference than the other slices, so positions cannot be compared; move away"
            " what does not belong to the series."
        )
    for keyword, what, tolerance in (
        ("ImageOrientationPatient", "orientation", ORIENTATION_TOLERANCE),
        ("PixelSpacing", "pixel spacing", PIXEL_SPACING_TOLERANCE),
    ):
        values = np.stack([item.numbers(keyword) for item in slices])
        middle = np.median(values, axis=0)
        scale = 1.0 if what == "orientation" else middle
        apart = np.abs((values - middle) / scale).max(axis=1)
        worst = int(apart.argmax())
        if apart[worst] > tolerance:
            unit = "" if what == "orientation" else " mm"
            raise ImageError(
                f"{slices[worst].path}: {what} {_list(values[worst])}{unit} differs from {_list(middle)}{unit} of the"
                f" other slices (allowed: {tolerance:g}); move away what does not belong to the series."
            )


def _usual_and_odd(groups: list[list[_Slice]]) -> tuple[list[_Slice], _Slice]:
    groups = sorted(groups, key=len, reverse=True)
    return groups[0], groups[-1][0]


def _list(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _arrange(folder: Path, slices: list[_Slice]) -> Series:
    """Sort along the normal, check that the slices stand at even distances above one another, and build the affine."""
    cosines = np.mean([item.numbers("ImageOrientationPatient") for item in slices], axis=0).reshape(2, 3)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    normal = np.cross(cosines[0], cosines[1])
    normal /= np.linalg.norm(normal)
    positions = np.stack([item.numbers("ImagePositionPatient") for item in slices])
    order = np.argsort(positions @ normal, kind="stable")
    slices = [slices[index] for index in order]
    positions = positions[order]
    row_spacing, column_spacing = np.median([item.numbers("PixelSpacing") for item in slices], axis=0)
    step = _even_step(slices, positions, normal) if len(slices) > 1 else normal * _thickness(slices[0])
    lps = np.eye(4)
    lps[:3, 0] = cosines[0] * column_spacing
    lps[:3, 1] = cosines[1] * row_spacing
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    first = slices[0]
    return Series(
        folder=folder,
        files=tuple(item.path for item in slices),
        shape=(first.integer("Columns"), first.integer("Rows"), len(slices)),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps,
        slopes=tuple(float(item.get("RescaleSlope")) for item in slices),
        intercepts=tuple(float(item.get("RescaleIntercept")) for item in slices),
        uid=first.text("SeriesInstanceUID"),
        description=first.text("SeriesDescription"),
        lossy=any(item.syntax in _LOSSY for item in slices),
        pixels=tuple(item.pixels() for item in slices),
    )


def _thickness(item: _Slice) -> float:
    thickness = float(item.get("SliceThickness") or 0)
    if not thickness > 0:
        raise ImageError(
            f"{item.path}: the only slice in its folder, without a SliceThickness, so it has no known extent; give the"
            " whole series."
        )
    return thickness


def _even_step(slices: list[_Slice], positions: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the vector in mm from one slice to the next (LPS), or raise what keeps it from being one vector."""
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    for index in np.flatnonzero(gaps <= max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * usual)):
        first, second = slices[index], slices[index + 1]
        same = first.text("SOPInstanceUID") and first.text("SOPInstanceUID") == second.text("SOPInstanceUID")
        count = int((gaps <= max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * usual)).sum())
        raise ImageError(
            f"{second.path}: at the same position as {first.path.name} ({along[index]:.4g} mm along the normal,"
            f" {abs(gaps[index]):.4g} mm apart; {count} such pair(s)): "
            + (
                "the same image twice; delete the copies."
                if same
                else "several phases or reconstructions in one series; keep one of them."
            )
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    distance = float(step @ normal)
    tolerance = max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * distance)
    uneven = np.abs(along - along[0] - distance * np.arange(len(slices)))
    if uneven.max() > tolerance:
        wide = int(np.argmax(np.abs(gaps - usual)))
        missing = gaps[wide] / usual - 1
        if missing > 0.5 and abs(missing - round(missing)) < 0.1:
            finding = f"{round(missing)} slice(s) missing: {gaps[wide]:.4g} mm"
            advice = "find the missing files and copy the series again"
        else:
            finding = f"uneven slice spacing: {gaps[wide]:.4g} mm"
            advice = "export a series with even spacing, or resample it with a tool that knows about it"
        raise ImageError(
            f"{slices[wide].path}: {finding} to the next slice {slices[wide + 1].path.name} where {usual:.4g} mm are usual"
            f" (allowed: {tolerance:.3g} mm off the even position); {advice}."
        )
    sideways = step - distance * normal
    total = float(np.linalg.norm(sideways)) * (len(slices) - 1)
    angle = float(np.degrees(np.arctan2(np.linalg.norm(sideways), distance)))
    if angle > TILT_DEGREES and total > SPACING_TOLERANCE_MM:
        raise ImageError(
            f"{slices[0].path}: gantry tilt of {angle:.3g} degrees: slices shift sideways by"
            f" {np.linalg.norm(sideways):.3g} mm each, {total:.3g} mm in all; correct the tilt (resample to a"
            " rectangular grid) before using the series."
        )
    lateral = positions - positions[0] - np.arange(len(slices))[:, None] * step
    lateral -= np.outer(lateral @ normal, normal)
    off = np.linalg.norm(lateral, axis=1)
    worst = int(off.argmax())
    if off[worst] > tolerance:
        raise ImageError(
            f"{slices[worst].path}: shifted sideways by {off[worst]:.4g} mm against the line through the other slices"
            f" (allowed: {tolerance:.3g} mm); export a series with one field of view."
        )
    return step


# --- pixels ---------------------------------------------------------------------------------------------------------

_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 203))
_TWELVE_BIT = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (51, 53, 55))


def _stored_values(pixels: _Pixels) -> np.ndarray:
    """Return the stored values of one slice, ``(rows, columns)`` integers, before the modality LUT."""
    path = pixels.path
    try:
        if pixels.syntax.is_encapsulated or pixels.syntax.is_deflated or pixels.allocated == 8:
            image = pydicom.dcmread(path)
            if "PixelData" not in image:
                raise ImageError(
                    f"{path}: no pixel data; the file is cut off or was stripped. Copy the series again."
                )
            array = _decode(path, image, pixels.syntax)
        else:
            array = _native(pixels)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like; the file has to be named
        raise ImageError(
            f"{path}: the pixel data cannot be decoded ({str(error).strip() or type(error).__name__}); the file is"
            " damaged, or compressed in an unsupported way. Copy the series again or decompress it (gdcmconv --raw)."
        ) from error
    if array.shape != (pixels.rows, pixels.columns) or array.dtype.kind not in "iu":
        raise ImageError(
            f"{path}: decoded to {array.shape} {array.dtype} instead of {(pixels.rows, pixels.columns)} whole numbers; the"
            " file is damaged. Copy the series again."
        )
    return array


def _native(pixels: _Pixels) -> np.ndarray:
    """Read native pixel data (PS3.5 8.1.1) where the header scan stopped, without parsing the header again.

    The bits above HighBit may hold overlays and are cut away.
    """
    order = "<" if pixels.syntax.is_little_endian else ">"
    size = pixels.allocated // 8
    expected = pixels.rows * pixels.columns * size
    with pixels.path.open("rb") as stream:
        stream.seek(pixels.offset)
        head = stream.read(8 if pixels.syntax.is_implicit_VR else 12)
        if head[:4] != struct.pack(f"{order}HH", 0x7FE0, 0x0010):
            raise ImageError(
                f"{pixels.path}: no pixel data; the file is cut off or was stripped. Copy the series again."
            )
        length = struct.unpack(f"{order}I", head[-4:])[0] if len(head) >= 8 else 0
        data = stream.read(min(length, expected + 2))
    needs = f"{pixels.columns} x {pixels.rows} pixels need {expected}"
    if len(data) < expected:
        raise ImageError(
            f"{pixels.path}: cut off: {len(data)} bytes of pixel data where {needs}. Copy the series again."
        )
    if length > expected + 1:
        raise ImageError(
            f"{pixels.path}: {length} bytes of pixel data where {needs}; header and pixels do not belong together. Copy"
            " the series again."
        )
    kind = f"{order}{'i' if pixels.signed else 'u'}{size}"
    array = np.frombuffer(data, dtype=kind, count=expected // size).reshape(pixels.rows, pixels.columns)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    spare = pixels.allocated - pixels.stored
    return (
        np.right_shift(np.left_shift(array, spare), spare) if spare else array
    )  # extends the sign of signed values


def _decode(path: Path, image: pydicom.Dataset, syntax: UID) -> np.ndarray:
    if syntax.is_encapsulated:
        _check_complete(path, image, syntax)
    if (
        syntax in _TWELVE_BIT
    ):  # pydicom refuses these retired processes with 12 bits, GDCM's own reader knows them
        return _decode_gdcm(path, image)
    return image.pixel_array


def _check_complete(path: Path, image: pydicom.Dataset, syntax: UID) -> None:
    """Find compressed data that are cut off: some decoders fill up the rest without a word."""
    if syntax == RLELossless:  # its segments carry their lengths
        return
    if b"\xff\xd9" not in image.PixelData.rstrip(b"\0")[-16:]:  # end marker of JPEG, JPEG-LS and JPEG 2000
        raise ImageError(
            f"{path}: cut off: the compressed pixel data have no end marker. Copy the series again."
        )


def _decode_gdcm(path: Path, image: pydicom.Dataset) -> np.ndarray:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(os.fspath(path))
    if not reader.Read():
        raise ValueError("GDCM cannot decode this JPEG process")
    buffer = reader.GetImage().GetBuffer()
    if isinstance(buffer, str):  # the binding hands bytes over as text
        buffer = buffer.encode("utf-8", "surrogateescape")
    kind = f"{'i' if int(image.PixelRepresentation) else 'u'}{int(image.BitsAllocated) // 8}"
    return np.frombuffer(buffer, dtype=kind).reshape(int(image.Rows), int(image.Columns))
