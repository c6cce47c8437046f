"""Numbers of a NIfTI header that point nowhere: refused by the field's name before anything is read there."""

import gzip
import struct

import numpy as np
import pytest

from tests.transforms.io.written import nifti
from transforms.io.readers import ImageError, read_header, read_image, read_label

ARRAY = np.arange(1, 61, dtype=np.int16).reshape(5, 4, 3)
# Offsets of the fields in NIfTI-1.
DIM, DATATYPE, BITPIX, VOX_OFFSET, SLOPE, INTERCEPT = 40, 70, 72, 108, 112, 116
INFINITE, NAN = float("inf"), float("nan")

IN_HEADER = [
    *(
        (VOX_OFFSET, "<f", value, "vox_offset is")
        for value in (0, 1, 100, 352.5, -5, INFINITE, -INFINITE, NAN)
    ),
    *((VOX_OFFSET, "<f", value, "states 120 bytes of voxels, and") for value in (1e30, 360)),
    *((DIM, "<h", value, "not a valid image size") for value in (0, 8, 99, -1)),
    (DIM + 2, "<h", -3, "not a valid image size"),
    (DIM + 2, "<hhh", (32767, 32767, 32767), "states 70362301923326 bytes"),
    (DATATYPE, "<h", 64, "states 480 bytes"),
    (SLOPE, "<f", INFINITE, "scaled by inf"),
    (INTERCEPT, "<f", NAN, "shifted by nan"),
    (INTERCEPT, "<f", -INFINITE, "shifted by -inf"),
]


def changed(path, offset, code, value, packed=False):
    """A file of ARRAY with another number at `offset` of its header."""
    raw = bytearray(nifti(path.with_name("whole.nii"), ARRAY).read_bytes())
    values = value if isinstance(value, tuple) else (value,)
    raw[offset : offset + struct.calcsize(code)] = struct.pack(code, *values)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


@pytest.mark.parametrize(("offset", "code", "value", "said"), IN_HEADER)
def test_refused_by_the_header_alone(tmp_path, offset, code, value, said):
    path = changed(tmp_path / "a.nii", offset, code, value)
    for read in (read_header, read_image, read_label):
        with pytest.raises(ImageError, match=rf"a\.nii: .*{said}"):
            read(path)


@pytest.mark.parametrize(("offset", "code", "value", "said"), IN_HEADER)
def test_refused_in_a_gz_too(tmp_path, offset, code, value, said):
    """How much a compressed file holds is known only roughly; what fits roughly is told when it is read."""
    path = changed(tmp_path / "a.nii.gz", offset, code, value, packed=True)
    for read in (read_image, read_label):
        with pytest.raises(ImageError, match=r"a\.nii\.gz: "):
            read(path)
    if said.startswith("states 7"):
        with pytest.raises(ImageError, match=said):
            read_header(path)


@pytest.mark.parametrize(
    ("offset", "code", "value", "said"),
    [(DATATYPE, "<h", 256, "datatype is int8 and bitpix 16"), (VOX_OFFSET, "<f", 348, "vox_offset is 348")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_doubtful_header_with_bytes_left_over_is_refused(tmp_path, offset, code, value, said, packed):
    path = changed(tmp_path / ("a.nii.gz" if packed else "a.nii"), offset, code, value, packed)
    with pytest.raises(ImageError, match=said):
        read_image(path)


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [(BITPIX, "<h", 0), (BITPIX, "<h", 99), (SLOPE, "<f", NAN), (SLOPE, "<f", 0), (348, "4s", b"\1\0\0\0")],
)
def test_what_is_merely_unusual_is_read(tmp_path, caplog, offset, code, value):
    path = changed(tmp_path / "a.nii", offset, code, value)
    np.testing.assert_array_equal(read_image(path).numpy()[0], ARRAY)
    assert not caplog.records


def test_more_bytes_than_voxels_are_noticed(tmp_path, caplog):
    path = nifti(tmp_path / "a.nii", ARRAY)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(16))
    np.testing.assert_array_equal(read_image(path).numpy()[0], ARRAY)
    assert not caplog.records
    path.write_bytes(whole + ARRAY.tobytes())
    read_image(path)
    assert "120 more bytes follow the voxels" in caplog.text
