"""Saving the pictures of the docs in few bytes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

__all__ = ["save_small"]


def save_small(picture: Image.Image, path: Path, colours: int = 256) -> None:
    """Save as PNG of few colours, a quarter of the size, which no eye sees; says where and how large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "kB")
