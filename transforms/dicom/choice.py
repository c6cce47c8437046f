"""Selection of one of the volumes in a folder."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from transforms.dicom.frame import Frame
from transforms.dicom.volumes import (
    NO_IMAGE,
    Volume,
    find_all,
    is_ct,
    is_localizer,
    is_secondary_capture,
    modality_of,
)
from transforms.errors import ImageError

__all__ = ["choose_volume"]

_LISTED = 40
_log = logging.getLogger(__name__)


def choose_volume(folder: Path, series: str | int | None, joined: bool = False) -> Volume:
    """Return the selected CT volume: the only one, or the one that `series` names.

    Args:
        folder: a folder with its subfolders, or one file.
        series: number in the list of `find_volumes`, a SeriesInstanceUID, or a SeriesDescription (or a
            part of one that occurs in no other).
        joined: if the selected volumes are pieces of one stack, join them in spite of the gaps between them.

    Raises:
        ImageError: there is no volume; there are several, or only a localizer, and `series` is None; or the
            chosen one is not CT.
    """
    volumes, others = find_all(folder)
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
    chosen = _matching(folder, volumes, series, joined)
    if chosen.modality != "CT":
        raise ImageError(
            f"{chosen.files[0]}: modality {chosen.modality or 'missing'}, not CT; give a folder of CT slices."
        )
    taken = {id(frame) for frame in chosen.frames}
    left = [volume for volume in volumes if id(volume.frames[0]) not in taken]
    rest = _count(others + [frame for volume in left for frame in volume.frames])
    if rest:
        # Skipping a scout loses nothing, but the user should still see that a choice between images was made.
        scout = series is None and any(volume.localizer for volume in left)
        name = chosen.description or chosen.uid or "the CT"
        _log.log(
            logging.WARNING if scout else logging.INFO, "%s: reading %s; passed over: %s.", folder, name, rest
        )
    return chosen


def _matching(folder: Path, volumes: list[Volume], series: str | int | None, joined: bool) -> Volume:
    if series is None:
        # Other modalities are skipped, unless they have a CT's UID or SOP class: those are slices with a damaged header.
        series_of_ct = {volume.uid for volume in volumes if volume.modality == "CT"}
        found = [
            volume for volume in volumes if volume.uid in series_of_ct or is_ct(volume.frames[0])
        ] or volumes
        if all(volume.localizer for volume in found):
            raise ImageError(
                f"{folder}: only localizers (scout views) here, which are not CT volumes to segment; give the folder of the"
                f" CT series, or choose one of these with --series NUMBER:\n{_listed(found)}"
            )
        found = _joined([v for v in found if not v.localizer or _could_be_slices(v, found)], joined)
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
        # A number that is not in the list may be a series number, so it is not searched in descriptions ("T=10%").
        lambda volume: not wanted.isdigit() and named in volume.description.casefold(),
    ):
        found = found or [volume for volume in volumes if test(volume)]
    found = _joined(found, joined)
    if len(found) == 1:
        return found[0]
    finding = f"{len(found)} volumes match" if found and wanted else "no volume matches"
    raise ImageError(
        f"{folder}: {finding} --series '{wanted}'; choose by number:\n{_listed(found or volumes)}"
    )


def _could_be_slices(localizer: Volume, volumes: list[Volume]) -> bool:
    """Whether a volume flagged as localizer may consist of slices of the CT, which would be lost by skipping it."""
    return any(
        not other.localizer
        and (other.uid, other.size, other.orientation)
        == (localizer.uid, localizer.size, localizer.orientation)
        and other.frames[0].text("PixelSpacing") == localizer.frames[0].text("PixelSpacing")
        for other in volumes
    )


def _joined(volumes: list[Volume], wanted: bool) -> list[Volume]:
    """Join volumes that are pieces of one stack."""
    if not wanted or len(volumes) < 2 or len({volume.stack or -volume.number for volume in volumes}) > 1:
        return volumes
    frames = tuple(frame for volume in volumes for frame in volume.frames)
    files = tuple(sorted({frame.path for frame in frames}))
    return [replace(volumes[0], count=len(frames), phase="", files=files, frames=frames, stack=0)]


def _listed(volumes: list[Volume]) -> str:
    lines = [f"  {volume.number}: {volume}" for volume in volumes[:_LISTED]]
    if len(volumes) > _LISTED:
        lines.append(f"  ... and {len(volumes) - _LISTED} more")
    stacks = Counter(volume.stack for volume in volumes if volume.stack)
    if any(count > 1 for count in stacks.values()):
        lines.append(
            "  (Pieces that follow one another with a gap or another distance between them can be read as one by"
            " interpolation, with --allow missing-slices or uneven-spacing.)"
        )
    return "\n".join(lines)


def _count(frames: list[Frame]) -> str:
    kinds = Counter(_kind(frame) for frame in frames)
    return ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))


def _kind(frame: Frame) -> str:
    if is_secondary_capture(frame):
        return "secondary capture"
    if is_localizer(frame):
        return "localizer"
    place = (
        ""
        if frame.has("ImagePositionPatient") or frame.text("Modality") in NO_IMAGE
        else " without a position"
    )
    return (modality_of(frame) or "unknown modality") + place
