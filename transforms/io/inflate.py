"""Decompression of voxels, with a check of the checksum and of the length that the header states."""

from __future__ import annotations

import bz2
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from transforms.errors import ImageError

__all__ = ["check_deflated", "inflate", "require_room"]

# Bytes read at once. bzip2 expands each byte to far more than deflate, and returns all of the result at once.
_PIECE = {"deflate": 1 << 16, "bzip2": 1 << 10}
_GZIP = b"\x1f\x8b"
_ZLIB_OR_GZIP = 47
_MOST = 1032
"""Largest expansion of one byte by deflate (RFC 1951): runs of 258 bytes, each coded in two bits."""


def require_room(path: Path, expected: int, room: int, packed: bool) -> None:
    """Refuse a header that states more voxels than the file can hold, before memory is allocated for them.

    Args:
        path: for the message.
        expected: bytes of voxels that the header states.
        room: bytes in the file behind the header.
        packed: they are compressed by deflate.

    Raises:
        ImageError: the file is too short for that many voxels.
    """
    if expected > (max(0, room) * _MOST if packed else room):
        kind = "compressed bytes" if packed else "bytes"
        raise ImageError(
            f"{path}: cut off or damaged: the header states {expected} bytes of voxels, and {max(0, room)} {kind} follow"
            " it. Copy or convert it again."
        )


def inflate(path: Path, stream: BinaryIO, expected: int, kind: str, length: int | None = None) -> bytearray:
    """Unpack exactly `expected` bytes.

    Args:
        path: for messages.
        stream: positioned at the first compressed byte.
        kind: ``deflate`` (zlib, RFC 1950, or gzip, RFC 1952: detected by the first bytes) or ``bzip2``.
        length: number of compressed bytes; None: up to the end of the file.

    Raises:
        ImageError: the checksum is wrong, or the stream is cut off or holds more or less than `expected`.
    """
    try:
        found = bytearray(expected)
        place = _unpack(path, stream, found, kind, length)
    except (zlib.error, OSError, EOFError, MemoryError) as error:
        raise ImageError(
            f"{path}: the compressed voxels are damaged ({str(error) or 'no memory for them'}); copy or convert the file"
            " again."
        ) from error
    if place < expected:
        raise ImageError(
            f"{path}: cut off: the compressed voxels are {place} bytes where the header states {expected}; copy or"
            " convert the file again."
        )
    return found


def check_deflated(path: Path, stream: BinaryIO, length: int) -> None:
    """Unpack `length` bytes of a zlib stream to verify its checksum.

    Raises:
        ImageError: the checksum is wrong, or the stream is cut off.
    """
    unpacker, left = zlib.decompressobj(), length
    try:
        while not unpacker.eof and (piece := stream.read(min(_PIECE["deflate"], left))):
            left -= len(piece)
            unpacker.decompress(piece)
    except zlib.error as error:
        raise ImageError(f"{path}: the file is damaged ({error}); copy it again.") from error
    if not unpacker.eof:
        raise ImageError(f"{path}: cut off: its compressed pixels have no end; copy it again.")


def _unpack(path: Path, stream: BinaryIO, found: bytearray, kind: str, length: int | None) -> int:
    place, left = 0, length
    unpacker = _unpacker(kind)
    while piece := stream.read(_PIECE[kind] if left is None else min(_PIECE[kind], left)):
        left = None if left is None else left - len(piece)
        while piece:
            if unpacker.eof:
                # A gzip file may have several members; anything else after a member is padding.
                if kind == "deflate" and not piece.startswith(_GZIP):
                    return place
                unpacker = _unpacker(kind)
            out = unpacker.decompress(piece)
            if place + len(out) > len(found):
                raise ImageError(
                    f"{path}: damaged: the compressed voxels are more than the {len(found)} bytes that the header states;"
                    " copy or convert the file again."
                )
            found[place : place + len(out)] = out
            place += len(out)
            piece = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise EOFError("they end in the middle")
    return place


def _unpacker(kind: str) -> Any:
    return bz2.BZ2Decompressor() if kind == "bzip2" else zlib.decompressobj(_ZLIB_OR_GZIP)
