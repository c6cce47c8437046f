"""NIfTI files: every type and scaling, and what is refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.io.written import SHAPE, nifti, ramp
from transforms.io.nifti import nifti_header, nifti_headers
from transforms.io.readers import ImageError, read_header, read_image

some = settings(max_examples=25)


@pytest.mark.parametrize(
    ("stored", "slope", "inter", "dtype"),
    [
        ("int16", 1.0, 0.0, "int16"),
        ("int16", np.nan, np.nan, "int16"),
        ("uint8", 1.0, -100.0, "int16"),
        ("uint16", 1.0, -1024.0, "int16"),
        ("int32", 1.0, 40000.0, "int32"),
        ("int64", 1.0, 0.0, "int16"),
        ("int16", 1.0, 0.5, "float32"),
        ("int16", 0.25, 3.0, "float32"),
        ("uint16", 2.0, 0.0, "float32"),
        ("float32", 1.0, 0.0, "float32"),
        ("float64", 1.0, 0.0, "float32"),
    ],
)
@pytest.mark.parametrize("endian", ["<", ">"])
def test_nifti_types_and_scaling(tmp_path, stored, slope, inter, dtype, endian):
    array = ramp(stored)
    image = nib.Nifti1Image(array, np.eye(4), dtype=stored).as_reoriented([[0, 1], [1, 1], [2, 1]])
    header = nib.Nifti1Header(endianness=endian)
    header.set_data_dtype(stored)
    header.set_data_shape(SHAPE)
    header.set_sform(image.affine, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["scl_slope"], header["scl_inter"] = slope, inter
    raw = (
        header.binaryblock
        + b"\0" * 4
        + array.astype(np.dtype(stored).newbyteorder(endian)).tobytes(order="F")
    )
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw))
    read = read_image(tmp_path / "a.nii.gz")
    assert str(read.dtype) == f"torch.{dtype}"
    expected = ramp("float64") * (1 if np.isnan(slope) else slope) + (0 if np.isnan(inter) else inter)
    np.testing.assert_allclose(read.numpy()[0], expected, rtol=1e-7)


@given(
    slope=st.sampled_from([1.0, 2.0, 0.5, 0.0005]), inter=st.integers(-70000, 70000), seed=st.integers(0, 99)
)
@some
def test_scaling_never_wraps_around(tmp_path, slope, inter, seed):
    array = np.random.default_rng(seed).integers(-32768, 32767, SHAPE).astype(np.int16)
    path = nifti(tmp_path / "a.nii", array, scl_slope=slope, scl_inter=inter)
    raw = bytearray(path.read_bytes())  # nibabel resets the two fields on saving
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(raw)
    np.testing.assert_allclose(
        read_image(path).numpy()[0], array * np.float64(np.float32(slope)) + inter, rtol=1e-6
    )


def test_trailing_axes_of_one_are_dropped(tmp_path):
    array = ramp()
    for extra in ((1,), (1, 1)):
        path = nifti(tmp_path / "a.nii", array.reshape(*SHAPE, *extra))
        assert read_header(path).shape == SHAPE
        np.testing.assert_array_equal(read_image(path).numpy()[0], array)
    assert tuple(read_image(nifti(tmp_path / "b.nii", array[:, :, :1])).shape) == (1, 7, 6, 1)
    assert tuple(read_image(nifti(tmp_path / "c.nii", array[:, :, 0])).shape) == (1, 7, 6)


def _rgb(path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), path)


def _mirrored(path):
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.set_sform(np.diag([-1.0, 1, 1, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, path)


def _patched(offset: int, value: bytes):
    def write(path):
        raw = bytearray(nifti(path, ramp()).read_bytes())
        raw[offset : offset + len(value)] = value
        path.write_bytes(raw)

    return write


REFUSED_NIFTI = {
    "complex": (lambda path: nifti(path, ramp("complex64")), "complex numbers"),
    "RGB": (_rgb, "RGB colours"),
    "no orientation": (_patched(252, bytes(4)), "states no orientation"),
    "mirrored forms": (_mirrored, "mirror images of each other"),
    "metres": (lambda path: nifti(path, ramp(), xyzt_units=1), "gives lengths in meters"),
    "singular": (_patched(280, np.zeros(12, "<f4").tobytes()), "no inverse"),
    "nan affine": (_patched(280, np.full(12, np.nan, "<f4").tobytes()), "no inverse"),
    "unknown type": (_patched(70, b"\x99\x99"), "not a NIfTI file"),
    "text": (lambda path: path.write_text("hello, this is no image" * 40), "not a NIfTI file|damaged"),
    "empty": (lambda path: path.write_bytes(b""), "not a NIfTI file|damaged"),
}


@pytest.mark.parametrize("case", REFUSED_NIFTI)
def test_refused_nifti(tmp_path, case):
    write, message = REFUSED_NIFTI[case]
    path = tmp_path / "x.nii"
    write(path)
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match=rf"x\.nii: .*({message})"):
            read(path)


def test_headers_of_many_files_are_those_of_each(tmp_path):
    """Files with one and the same header are parsed once; no other file passes for one of them."""
    moved = np.diag([2.0, 2, 3, 1])
    moved[0, 3] = 1
    files = []
    for number, affine in enumerate([np.diag([2.0, 2, 3, 1])] * 2 + [moved]):
        for kind, ending in (
            (nib.Nifti1Image, ".nii"),
            (nib.Nifti1Image, ".nii.gz"),
            (nib.Nifti2Image, ".nii"),
        ):
            files.append(tmp_path / f"{kind.__name__}{number}{ending}")
            nib.save(kind(np.full(SHAPE, number, np.uint8), affine), files[-1])
    nib.save(nib.Nifti1Pair(np.zeros(SHAPE, np.uint8), moved), tmp_path / "pair.hdr")
    files += [tmp_path / "pair.hdr", tmp_path / "pair.img", files[0]]
    for path, header in nifti_headers(files):
        wanted = nifti_header(path, None)
        assert header.shape == wanted.shape
        np.testing.assert_array_equal(header.affine, wanted.affine)
    for file, length in ((files[3], 400), (files[4], 60), (files[6], 100)):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(ImageError) as error:
            list(nifti_headers(files))
        assert str(file) in str(error.value)
        file.unlink()
        files.remove(file)
