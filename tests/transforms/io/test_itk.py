"""NRRD and MetaImage: what ITK reads right is read alike, damage and lies of a header are refused, never believed."""

import bz2
import gzip
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.transforms.io.test_readers import nifti
from transforms.io.itk import voxel_files
from transforms.io.readers import ImageError, read_header, read_image, read_label

SHAPE = (7, 6, 5)
VALUES = np.random.default_rng(0).normal(0, 300, SHAPE).astype(np.int16)
# Large enough for Adler-32 (RFC 1950): the sum over a few small numbers is equal by chance now and then.
CLASSES = np.random.default_rng(1).integers(0, 3, (40, 36, 30)).astype(np.uint8)
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


# --- what is valid stays readable -----------------------------------------------------------------------------------


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


def test_voxels_in_other_files(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "all.raw").write_bytes(RAW)
    for index in range(5):
        (tmp_path / f"s{index + 1:02d}.raw").write_bytes(VALUES[:, :, index].tobytes(order="F"))
    listed = "\n".join(f"s{index + 1:02d}.raw" for index in range(5))
    for name, stated in (
        ("a.mhd", "below/all.raw"),
        ("b.mhd", "s%02d.raw 1 5 1"),
        ("c.mhd", f"LIST\n{listed}"),
        ("d.mhd", f"LIST 2D\n{listed}"),
        ("e.mhd", "LIST 3D\nbelow/all.raw"),  # ITK returns what memory happens to hold
    ):
        path = write(tmp_path / name, META, b"", ElementDataFile=stated)
        assert_read(path)
        assert len(voxel_files(path)) == (1 if "below" in stated else 5)
        assert all(file.parent in (tmp_path, tmp_path / "below") for file in voxel_files(path))
    assert voxel_files(write(tmp_path / "f.mha", META)) == (tmp_path / "f.mha",)
    for name, stated in (
        ("a.nhdr", "below/all.raw"),
        ("b.nhdr", "s%02d.raw 1 5 1"),
        ("c.nhdr", f"LIST\n{listed}"),
        ("d.nhdr", f"LIST 2\n{listed}"),
    ):
        header = NRRD[:-1] + f"data file: {stated}\n"
        (tmp_path / name).write_text(header)
        assert_read(tmp_path / name)


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


# --- damaged streams ------------------------------------------------------------------------------------------------


def compressed(folder: Path, name: str, array: np.ndarray) -> tuple[Path, int]:
    """A compressed file, and where its voxels begin in it."""
    path = folder / name
    if name.endswith(".nii.gz"):
        return nifti(path, array), 10  # behind the header of gzip
    if name == "b.nrrd":
        kind = {"int16": "short", "uint8": "uchar"}[str(array.dtype)]
        sizes = " ".join(map(str, array.shape))
        write(path, NRRD, bz2.compress(array.tobytes(order="F")), encoding="bzip2", type=kind, sizes=sizes)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array.T), str(path), True)
    raw = path.read_bytes()
    return path, raw.index(b"LOCAL\n") + 6 if name == "a.mha" else raw.index(b"\n\n") + 2


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "b.nrrd", "a.nii.gz"])
@pytest.mark.parametrize(("read", "array"), [(read_image, VALUES), (read_label, CLASSES)])
def test_a_flipped_bit_or_a_cut_is_found_and_never_read_wrong(tmp_path, name, read, array):
    path, start = compressed(tmp_path, name, array)
    raw = path.read_bytes()
    np.testing.assert_array_equal(read(path).numpy()[0], array)
    chance = random.Random(7)
    refused = 0
    for number in range(60):
        damaged = bytearray(raw)
        if number % 3:
            damaged[chance.randrange(start, len(raw))] ^= 1 << chance.randrange(8)
        else:
            damaged = damaged[: chance.randrange(start, len(raw))]
        path.write_bytes(damaged)
        try:
            found = read(path).numpy()[0]
        except ImageError:
            refused += 1
            continue
        np.testing.assert_array_equal(found, array)
    assert refused >= 55  # bits of a gzip header that mean nothing may flip


@pytest.mark.parametrize("change", [-2, 2])
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_a_whole_stream_of_another_length_is_refused(tmp_path, name, change):
    """The checksum is right, but these are the voxels of another image."""
    data = RAW[:change] if change < 0 else RAW + bytes(change)
    if name == "a.mha":
        path = write(tmp_path / name, META, zlib.compress(data), CompressedData="True")
    else:
        path = write(tmp_path / name, NRRD, gzip.compress(data), encoding="gzip")
    with pytest.raises(ImageError, match=r"cut off: .* bytes where|more than the 420 bytes that the header"):
        read_image(path)


# --- headers that lie -----------------------------------------------------------------------------------------------

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
    with pytest.raises(ImageError, match=r"stands twice in|contradict each other"):
        read_header(path)


def test_a_field_called_almost_right_does_not_count(tmp_path):
    """ITK passes over the matrix and reads axes as they come, which turned this image by a quarter."""
    path = write(tmp_path / "a.mha", META)
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix", b"transformmatrix"))
    with pytest.raises(ImageError, match="no TransformMatrix"):
        read_image(path)


ELSEWHERE = [
    "/etc/hostname",
    "../secret.raw",
    "below/../../secret.raw",
    "C:\\secret.raw",
    "\\\\host\\secret.raw",
]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("form", ["{}", "LIST\n{}", "{}%d 1 5 1"])
def test_a_header_shows_no_file_from_elsewhere(tmp_path, name, form):
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    for secret in ["secret.raw", *(f"secret.raw{index}" for index in range(1, 6))]:
        (tmp_path / secret).write_bytes(RAW)
    for path, header, key in (("a.mhd", META, "ElementDataFile"), ("a.nhdr", NRRD, "data_file")):
        stated = form.format(name)
        write(folder / path, header, b"", **{key: stated})
        for read in (read_header, read_image, read_label):
            with pytest.raises(ImageError, match=rf"{path}: the header names the file of voxels"):
                read(folder / path)


def test_more_bytes_than_voxels_are_noticed(tmp_path, caplog):
    assert_read(write(tmp_path / "a.mha", META, RAW + b"\n"))
    assert not caplog.records
    assert_read(write(tmp_path / "b.mha", META, RAW + RAW))
    assert "420 more bytes follow the voxels" in caplog.text
