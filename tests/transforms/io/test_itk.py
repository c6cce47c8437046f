"""NRRD and MetaImage: what ITK reads right is read alike, damage and lies of a header are refused, never believed."""

import bz2
import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from tests.transforms.io.text_headers import AFFINE, META, NRRD, RAW, VALUES, assert_read, write
from transforms.io.readers import ImageError, read_header, read_image


def test_the_plain_headers_of_this_file(tmp_path):
    assert_read(write(tmp_path / "a.mha", META))
    assert_read(write(tmp_path / "a.nrrd", NRRD))


VALID_META = {
    "big endian": ({"BinaryDataByteOrderMSB": "True"}, VALUES.astype(">i2").tobytes(order="F")),
    "text": ({"BinaryData": "False"}, " ".join(map(str, VALUES.ravel(order="F"))).encode() + b"\n"),
    "zlib": (
        {"CompressedData": "True", "CompressedDataSize": str(len(zlib.compress(RAW)))},
        zlib.compress(RAW),
    ),
    "long is 4 bytes": ({"ElementType": "MET_LONG"}, VALUES.astype("<i4").tobytes(order="F")),
    "at the end": ({"HeaderSize": "-1"}, b"rubbish" + RAW),
    "old names": ({"Offset": None, "Position": "5 6 7"}, RAW),
    "size for spacing": ({"ElementSpacing": None, "ElementSize": "1 2 3"}, RAW),
    "local in small letters": ({"ElementDataFile": "local"}, RAW),
    "other fields": ({"Comment": "a = b", "SequenceID": "1 2 3"}, RAW),
}
VALID_NRRD = {
    "big endian": ({"endian": "big"}, VALUES.astype(">i2").tobytes(order="F")),
    "text": ({"encoding": "ascii"}, " ".join(map(str, VALUES.ravel(order="F"))).encode()),
    "hex": ({"encoding": "hex"}, RAW.hex().encode()),
    "gzip": ({"encoding": "gz"}, gzip.compress(RAW)),
    "gzip in two members": ({"encoding": "gzip"}, gzip.compress(RAW[:100]) + gzip.compress(RAW[100:])),
    "skipped bytes": ({"byte_skip": "4"}, b"skip" + RAW),
    "skipped bytes of gzip": ({"encoding": "gzip", "byteskip": "4"}, gzip.compress(b"skip" + RAW)),
    "skipped line": ({"line_skip": "1"}, b"skip this\n" + RAW),
    "at the end": ({"byte_skip": "-1"}, b"rubbish" + RAW),
    "other space": (
        {
            "space": "RAS",
            "space_directions": "(0,-1,0) (2,0,0) (0,0,3)",
            "space_origin": "(-5,-6,7)",
        },
        RAW,
    ),
    "other fields": ({"old_min": "5", "measurement_frame": "(1,0,0) (0,1,0) (0,0,1)"}, RAW),
}


@pytest.mark.parametrize(
    ("name", "header", "changes", "data"),
    [("a.mha", META, *case) for case in VALID_META.values()]
    + [("a.nrrd", NRRD, *case) for case in VALID_NRRD.values()],
    ids=[f"meta {case}" for case in VALID_META] + [f"nrrd {case}" for case in VALID_NRRD],
)
def test_rare_but_valid_is_read_as_itk_reads_it(tmp_path, name, header, changes, data):
    path = write(tmp_path / name, header, data, **changes)
    assert_read(path)
    expected = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(read_image(path).numpy()[0], sitk.GetArrayFromImage(expected).T)
    np.testing.assert_allclose(expected.GetSpacing(), (1, 2, 3))


def test_compressed_voxels_that_itk_cannot_read(tmp_path):
    """It was built without bzip2, and of voxels without a stated length it returns what memory happens to hold."""
    assert_read(write(tmp_path / "a.nrrd", NRRD, bz2.compress(RAW), encoding="bzip2"))
    for pack in (zlib.compress, gzip.compress):
        assert_read(write(tmp_path / "a.mha", META, pack(RAW), CompressedData="True"))


@pytest.mark.parametrize("place", [0, 3])
def test_components_of_nrrd_on_either_side(tmp_path, place):
    sizes, kinds, directions = [7, 6, 5], ["domain"] * 3, ["(0,1,0)", "(-2,0,0)", "(0,0,3)"]
    for parts, part in ((sizes, 2), (kinds, "vector"), (directions, "none")):
        parts.insert(place, part)
    values = np.stack([VALUES, VALUES + 1], axis=place)
    path = write(
        tmp_path / "a.nrrd",
        NRRD,
        values.tobytes(order="F"),
        dimension="4",
        sizes=" ".join(map(str, sizes)),
        kinds=" ".join(kinds),
        space_directions=" ".join(directions),
    )
    image = read_image(path)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(values, place, 0))
    np.testing.assert_allclose(image.affine, AFFINE)
    assert read_header(path).channels == 2


WRONG_META = {
    "NDims": ["99", "4096", "-1", "0", "1", "5", "3.5", "", "three"],
    "DimSize": ["7 6", "7 6 -5", "7 6 0", "32767 32767 32767", "9" * 40, "7 6 5 1", "inf 6 5"],
    "ElementNumberOfChannels": ["0", "-1", "1000000000", "3"],
    "ElementType": ["MET_NONE", "MET_STRING", "SHORT", "", "MET_DOUBLE"],
    "ElementSpacing": ["1 2", "1 2 0", "1 2 nan", "1 2 1e400"],
    "TransformMatrix": ["1 0 0", "0 0 0 0 0 0 0 0 0", "nan 0 0 0 1 0 0 0 1"],
    "Offset": ["1 2", "1 2 inf"],
    "HeaderSize": ["3", "-2", "9999999999999"],
    "ElementByteOrderMSB": ["True"],
    "BinaryData": ["Perhaps"],
    "CompressedData": ["True"],
    "ObjectType": ["Tube"],
    "ElementDataFile": ["LIST", "s%d.raw 1 99999999 1", "s%s.raw 1 5 1", "absent.raw", ""],
}
WRONG_NRRD = {
    "dimension": ["99", "17", "-1", "0", "x"],
    "sizes": ["7 6", "7 6 -5", "7 6 0", "32767 32767 32767", "9" * 40],
    "type": ["block", "float17", "double"],
    "encoding": ["zip", "gzip", "bzip2", "hex", "ascii"],
    "endian": ["middle", None],
    "space_directions": ["(1,0,0) (0,1,0)", "(1,0,0) (0,1,0) (0,0,nan)", "(1,0,0) (0,1,0) none", "1 2 3"],
    "space_origin": ["(1,2)", "(1,2,inf)"],
    "kinds": ["domain domain", "list list domain"],
    "byte_skip": ["-2", "999999999", "x"],
    "line_skip": ["-1", "x"],
    "data_file": ["LIST", "LIST 9", "s%d.raw 1 99999999 1", "absent.raw"],
    "spaca": ["3"],
}


@pytest.mark.parametrize(
    ("name", "header", "key", "value"),
    [("a.mha", META, key, value) for key, values in WRONG_META.items() for value in values]
    + [("a.nrrd", NRRD, key, value) for key, values in WRONG_NRRD.items() for value in values],
)
def test_a_wrong_field_is_refused_in_a_sentence(tmp_path, name, header, key, value):
    """Several of these end the process inside ITK, or make it ask for all memory."""
    path = write(tmp_path / name, header, **{key: value})
    with pytest.raises(ImageError, match=rf"{name}: "):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "header", "key"),
    [("a.mha", META, "NDims"), ("a.nrrd", NRRD, "sizes"), ("a.mha", META, "Origin")],
)
def test_a_field_that_contradicts_itself_is_refused(tmp_path, name, header, key):
    path = write(tmp_path / name, header)
    sign = b" = " if header is META else b": "
    path.write_bytes(path.read_bytes().replace(b"DimSize", key.encode() + sign + b"1 2 3\nDimSize", 1))
    path.write_bytes(
        path.read_bytes().replace(b"\nendian", b"\n" + key.encode() + sign + b"1 2 3\nendian", 1)
    )
    with pytest.raises(ImageError, match=r"occurs twice in|contradict each other"):
        read_header(path)


def test_a_field_called_almost_right_does_not_count(tmp_path):
    """ITK passes over the matrix and reads axes as they come, which turned this image by a quarter."""
    path = write(tmp_path / "a.mha", META)
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix", b"transformmatrix"))
    with pytest.raises(ImageError, match="no TransformMatrix"):
        read_image(path)
