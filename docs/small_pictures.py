"""Saving the pictures of the docs in few bytes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

__all__ = ["save_small"]


def save_small(picture: Image.Image, path: Path, rare: bool = False) -> None:
    """Save as PNG of 256 colours, a quarter of the size, which no eye sees; says where and how large.

    Args:
        picture: in any mode.
        path: of the file.
        rare: keep colours of small areas, such as those of a legend, rather than fine shades.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    method = Image.Quantize.MAXCOVERAGE if rare else Image.Quantize.MEDIANCUT
    picture.convert("RGB").quantize(256, method, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "kB")
