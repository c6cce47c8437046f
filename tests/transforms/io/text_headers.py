"""Images with headers of text: NRRD and MetaImage, written field by field."""

from pathlib import Path

import numpy as np

from transforms.io.readers import read_header, read_image

SHAPE = (7, 6, 5)


VALUES = np.random.default_rng(0).normal(0, 300, SHAPE).astype(np.int16)


META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "TransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 5 6 7\nElementSpacing = 1 2 3\nDimSize = 7 6 5\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
    "space directions: (0,1,0) (-2,0,0) (0,0,3)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    "space origin: (5,6,7)\n\n"
)


AFFINE = [[0, 2, 0, -5], [-1, 0, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]]


RAW = VALUES.tobytes(order="F")


def write(path: Path, header: str, data: bytes = RAW, **changes: str) -> Path:
    """Write a header, fields of it replaced (one that is None is left out), with voxels behind it."""
    sign = " = " if header is META else ": "
    lines = header.splitlines(keepends=True)
    for key, value in changes.items():
        key = key.replace("_", " ") if header is NRRD else key
        index = next((i for i, line in enumerate(lines) if line.startswith(key + sign)), None)
        if index is None:
            index = len(lines) - 1  # before what ends the header
            lines.insert(index, "")
        lines[index] = "" if value is None else f"{key}{sign}{value}\n"
    path.write_bytes("".join(lines).encode("latin-1") + data)
    return path


def assert_read(path: Path, values: np.ndarray = VALUES) -> None:
    image, header = read_image(path), read_header(path)
    np.testing.assert_array_equal(image.numpy()[0], values)
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_allclose(header.affine, AFFINE)
    assert header.shape == SHAPE
