"""Files that each hold one channel of an image, numbered as nnU-Net does: case_0000.nii.gz, case_0001.nii.gz."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from transforms.errors import ImageError
from transforms.io.header import image_suffix
from transforms.io.readers import read_header


def numbered(stem: str) -> tuple[str, int] | None:
    """Case and channel of a file name without its ending; None where it has no number of four digits."""
    found = re.fullmatch(r"(.+)_(\d{4})", stem)
    return (found[1], int(found[2])) if found else None


def channel_file(image: Path, channel: int) -> Path:
    """The file of a channel of an image whose name leaves the channel out."""
    suffix = image_suffix(image)
    return image.with_name(f"{image.name[: len(image.name) - len(suffix)]}_{channel:04d}{suffix}")


def missing_channels(channels: Sequence[int], wanted: int | None = None) -> str:
    """What is wrong with the numbers of a case's files, "" where they run from 0000 without gaps.

    Args:
        channels: the numbers, in any order.
        wanted: how many there have to be, where that is known.
    """
    found = sorted(channels)
    if found == list(range(len(found) if wanted is None else wanted)):
        return ""
    last = found[-1] if wanted is None else wanted - 1
    return (
        f"this case has files of the channels {', '.join(f'{channel:04d}' for channel in found)}, and needs one each of"
        f" 0000 to {last:04d}"
    )


def by_case(files: Sequence[Path], channels: int) -> list[tuple[str, tuple[Path, ...], str]]:
    """Put the files of a folder together that hold the channels of one image.

    Files that hold all channels themselves stay alone, whatever they are called.

    Args:
        files: images.
        channels: that an image has; with one every file is an image.

    Returns:
        For each image the name of its case where its files have one ("" else), the files, and what is wrong with them.
    """
    groups: dict[str | Path, list[tuple[int, Path]]] = defaultdict(list)
    for file in files:
        suffix = image_suffix(file)
        part = numbered(file.name[: len(file.name) - len(suffix)]) if channels > 1 else None
        groups[part[0] + suffix if part else file].append((part[1] if part else 0, file))
    found: list[tuple[str, tuple[Path, ...], str]] = []
    for name, parts in groups.items():
        paths = [path for _, path in sorted(parts)]
        if isinstance(name, Path) or not _hold_one_channel(paths, channels):
            found += [("", (path,), "") for path in paths]
            continue
        problem = missing_channels([channel for channel, _ in parts], channels)
        case = name[: len(name) - len(image_suffix(name))]
        found.append((case, tuple(paths), f"{paths[0]}: {problem}" if problem else ""))
    return found


def _hold_one_channel(files: Sequence[Path], channels: int) -> bool:
    for file in files:
        try:
            return read_header(file, channels=channels).channels == 1
        except (ImageError, OSError):  # said when it is read
            continue
    return True
