"""Which volumes the DICOM files of a folder form, and which of them is meant.

A volume is what one array can hold: one series (0020,000E), modality, image size, orientation and frame of reference,
localizers apart, and one phase. Phases (time, heartbeat, acquisition, kernel ...) are told apart by header attributes,
and only where slices would otherwise stand at the same place or between one another: a stack whose AcquisitionNumber
grows from slice to slice is one volume.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from transforms.dicom_headers import CT_CLASSES, Frame, scan_files
from transforms.dicom_phases import numbers_or_none, split_phases
from transforms.errors import ImageError

__all__ = ["Volume", "choose_volume", "find_volumes"]

SAME_ORIENTATION = 0.02
"""Largest difference of direction cosines inside a volume when grouping (1 degree); the checks are stricter."""

# Objects that have rows and columns but are no image to segment, and those that have none (PS3.3 A.1.4).
_NO_IMAGE = frozenset(
    [
        "SEG",
        "RTSTRUCT",
        "RTDOSE",
        "RTPLAN",
        "RTRECORD",
        "RTIMAGE",
        "SR",
        "PR",
        "KO",
        "REG",
        "FID",
        "RWV",
        "DOC",
        "PLAN",
    ]
)
_LISTED = 40
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volume:
    """One image volume of a folder, not yet checked and without pixels.

    Attributes
    ----------
    number : int
        Its place in the list, from 1; what ``--series`` takes.
    uid, description, modality, study_uid : str
        SeriesInstanceUID (0020,000E), SeriesDescription (0008,103E), Modality (0008,0060), StudyInstanceUID.
    count : int
        Slices.
    size : tuple of int
        Columns and rows; 0 where the header does not say.
    orientation : str
        axial, coronal, sagittal, oblique or unknown.
    localizer : bool
        A scout view (ImageType LOCALIZER).
    phase : str
        What tells it from the other volumes of the same series; "" where nothing has to.
    files : tuple of Path
        Its files, sorted by path.
    """

    number: int
    uid: str
    description: str
    modality: str
    count: int
    size: tuple[int, int]
    orientation: str
    localizer: bool
    phase: str
    files: tuple[Path, ...]
    study_uid: str = ""
    frames: tuple[Frame, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        name = f" '{self.description}'" if self.description else ""
        kind = f"localizer, {self.orientation}" if self.localizer else self.orientation
        phase = f", {self.phase}" if self.phase else ""
        return (
            f"{self.modality or 'unknown modality'}{name}: {self.count} slice(s) of {self.size[0]} x {self.size[1]},"
            f" {kind}{phase}, such as {self.files[0].name} (series {self.uid or 'without a UID'})"
        )


def find_volumes(folder: str | Path) -> list[Volume]:
    """List all image volumes in a folder and its subfolders, or in one file, from the headers alone.

    The order, and with it the numbers, depend on series number, UIDs and phases, not on file names.

    Raises
    ------
    ImageError
        If there is no such folder, or a DICOM file whose header is damaged.
    """
    return _find(Path(folder))[0]


def choose_volume(folder: Path, series: str | int | None) -> Volume:
    """Return the CT volume that is meant: the only one, or the one that `series` names.

    Parameters
    ----------
    folder : Path
        A folder with its subfolders, or one file.
    series : str or int, optional
        Number in the list of :func:`find_volumes`, a SeriesInstanceUID, or a SeriesDescription (or a part of one that
        occurs in no other).

    Raises
    ------
    ImageError
        If there is none, several without a choice, or the chosen one is not CT.
    """
    volumes, others = _find(folder)
    if not volumes:
        if others:
            raise ImageError(
                f"{folder}: no CT images here, only {_count(others)}; give the folder of the CT series."
            )
        what = (
            "no DICOM files here; give a folder of CT slices (or convert the image to NIfTI)"
            if folder.is_dir()
            else "not a DICOM image; give a CT"
        )
        raise ImageError(f"{folder}: {what}.")
    chosen = _matching(folder, volumes, series)
    if chosen.modality != "CT":
        raise ImageError(
            f"{chosen.files[0]}: modality {chosen.modality or 'missing'}, not CT; give a folder of CT slices."
        )
    rest = _count(others + [frame for volume in volumes if volume is not chosen for frame in volume.frames])
    if rest:
        _log.info(
            "%s: reading %s; passed over: %s.", folder, chosen.description or chosen.uid or "the CT", rest
        )
    return chosen


def _matching(folder: Path, volumes: list[Volume], series: str | int | None) -> Volume:
    if series is None:
        # Another modality is passed over, but not under a CT's UID or SOP class: that is a slice whose header was damaged.
        series_of_ct = {volume.uid for volume in volumes if volume.modality == "CT"}
        found = [
            volume for volume in volumes if volume.uid in series_of_ct or _is_ct(volume.frames[0])
        ] or volumes
        if len(found) == 1:
            return found[0]
        raise ImageError(
            f"{folder}: {len(found)} volumes here, one is read at a time; choose with --series NUMBER, a"
            f" SeriesInstanceUID or a description:\n{_listed(found)}"
        )
    wanted = str(series).strip()
    named = wanted.casefold()
    found = []
    for test in (
        lambda volume: wanted.isdigit() and volume.number == int(wanted),
        lambda volume: volume.uid == wanted,
        lambda volume: volume.description.casefold() == named,
        # A number that is not in the list may be meant as a series number: "10" is no part of "T=10%".
        lambda volume: not wanted.isdigit() and named in volume.description.casefold(),
    ):
        found = found or [volume for volume in volumes if test(volume)]
    if len(found) == 1:
        return found[0]
    finding = f"{len(found)} volumes match" if found and wanted else "no volume matches"
    raise ImageError(
        f"{folder}: {finding} --series '{wanted}'; choose by number:\n{_listed(found or volumes)}"
    )


def _listed(volumes: list[Volume]) -> str:
    lines = [f"  {volume.number}: {volume}" for volume in volumes[:_LISTED]]
    if len(volumes) > _LISTED:
        lines.append(f"  ... and {len(volumes) - _LISTED} more")
    return "\n".join(lines)


def _count(frames: list[Frame]) -> str:
    kinds = Counter(_kind(frame) for frame in frames)
    return ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))


def _kind(frame: Frame) -> str:
    if _is_secondary_capture(frame):
        return "secondary capture"
    place = (
        ""
        if frame.has("ImagePositionPatient") or frame.text("Modality") in _NO_IMAGE
        else " without a position"
    )
    return (_modality(frame) or "unknown modality") + place


def _find(folder: Path) -> tuple[list[Volume], list[Frame]]:
    scanned = scan_files(folder)
    images = [frame for frame in scanned if not _is_no_image(frame)]
    others = [frame for frame in scanned if _is_no_image(frame)]
    by_series = _grouped(
        images, lambda f: (f.text("StudyInstanceUID"), f.text("SeriesInstanceUID"), _modality(f))
    )
    # A dose report or a screen shot that calls itself CT has no place in space at all; a slice without one has fellows,
    # and one that lost its UID and its size too is damaged.
    lost = [
        key
        for key, frames in by_series.items()
        if not any(frame.has("ImagePositionPatient") for frame in frames)
        and all(frame.has("SeriesInstanceUID") and frame.has("Rows") for frame in frames)
    ]
    if len(lost) < len(by_series):
        for key in lost:
            others += by_series.pop(key)
    found = []
    for frames in by_series.values():
        found += _volumes_of(frames)
    found.sort(key=lambda item: item[0])
    return [_volume(number, label, frames) for number, (_, label, frames) in enumerate(found, 1)], others


def _is_no_image(frame: Frame) -> bool:
    if _is_secondary_capture(frame):
        return True
    kind, no_size = frame.text("SOPClassUID"), not (frame.has("Rows") or frame.has("Columns"))
    if no_size and kind and kind not in CT_CLASSES:  # raw data and the like, which scanners call CT, too
        return True
    if _is_ct(frame):  # whatever it lost: that is for the checks to say, not a reason to leave it out
        return False
    return frame.text("Modality") in _NO_IMAGE or no_size


def _is_ct(frame: Frame) -> bool:
    return _modality(frame) == "CT" or frame.text("SOPClassUID") in CT_CLASSES


def _is_secondary_capture(frame: Frame) -> bool:
    return (frame.text("SOPClassUID") + ".").startswith(
        "1.2.840.10008.5.1.4.1.1.7."
    )  # and its multi-frame kinds


def _modality(frame: Frame) -> str:
    """The modality; where it is missing, that of the SOP class."""
    stated = frame.text("Modality").upper()
    return stated or ("CT" if frame.text("SOPClassUID") in CT_CLASSES else "")


def _grouped(frames: Iterable[Frame], key) -> dict[Hashable, list[Frame]]:  # type: ignore[no-untyped-def]
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return groups


def _volumes_of(frames: list[Frame]) -> list[tuple[tuple, str, list[Frame]]]:
    """Split the frames of one series: ``(sort key, what tells the part from the others, frames)``."""
    references = {frame.text("FrameOfReferenceUID") for frame in frames}
    parts = []
    for group in _grouped(
        frames, lambda f: (_is_localizer(f), _size(f), f.text("FrameOfReferenceUID"))
    ).values():
        for oriented in _by_orientation(group):
            reference = oriented[0].text("FrameOfReferenceUID") or "missing"
            for phase in split_phases(oriented):
                label = [phase[0]] if phase[0] else []
                label += [f"frame of reference {reference}"] if len(references) > 1 else []
                parts.append((label, phase[1], phase[2]))
    first = frames[0]
    number = first.text("SeriesNumber")
    return [
        (
            (
                int(number) if number.isdigit() else 2**31,
                first.text("StudyInstanceUID"),
                first.text("SeriesInstanceUID"),
                _modality(first),
                _is_localizer(part[0]),
                order,
                -len(part),
                _size(part[0]),
                label,
                min(frame.place for frame in part),
            ),
            ", ".join(label),
            part,
        )
        for label, order, part in parts
    ]


def _is_localizer(frame: Frame) -> bool:
    kinds = (*frame.values.get("ImageType", ()), *frame.values.get("FrameType", ()))
    return any(str(value).upper() == "LOCALIZER" for value in kinds)


def _size(frame: Frame) -> tuple[int, int]:
    return frame.integer("Columns", 0), frame.integer("Rows", 0)


def _by_orientation(frames: list[Frame]) -> list[list[Frame]]:
    clusters: list[tuple[np.ndarray, list[Frame]]] = []
    unknown = []
    for frame in frames:
        cosines = numbers_or_none(frame, "ImageOrientationPatient", 6)
        if cosines is None:
            unknown.append(frame)
            continue
        for centre, members in clusters:
            if np.abs(centre - cosines).max() <= SAME_ORIENTATION:
                members.append(frame)
                break
        else:
            clusters.append((cosines, [frame]))
    groups = sorted((members for _, members in clusters), key=len, reverse=True)
    if unknown:  # a slice whose orientation was lost, found by the checks; or a series that has none
        groups = [[*groups[0], *unknown], *groups[1:]] if groups else [unknown]
    return groups


def _orientation(frame: Frame) -> str:
    cosines = numbers_or_none(frame, "ImageOrientationPatient", 6)
    if cosines is None:
        return "unknown orientation"
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    axis = int(normal.argmax())
    return ("sagittal", "coronal", "axial")[axis] if normal[axis] > np.cos(np.radians(2)) else "oblique"


def _volume(number: int, label: str, frames: list[Frame]) -> Volume:
    first = frames[0]
    return Volume(
        number=number,
        uid=first.text("SeriesInstanceUID"),
        description=first.text("SeriesDescription"),
        modality=_modality(first),
        count=len(frames)
        if _is_ct(first)
        else sum(int(frame.text("NumberOfFrames") or 1) for frame in frames),
        size=_size(first),
        orientation=_orientation(first),
        localizer=_is_localizer(first),
        phase=label,
        files=tuple(sorted({frame.path for frame in frames})),
        study_uid=first.text("StudyInstanceUID"),
        frames=tuple(frames),
    )
