"""Readers of image and label files: the same field in world space whatever the format, and clear refusals."""

import contextlib
import gzip
import random
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.transforms import LoadImage
from PIL import Image

from tests import dicom_phantom as ph
from transforms.io.readers import ImageError, image_suffix, read_header, read_image, read_label

SHAPE = (7, 6, 5)
some = settings(max_examples=25)
permutations = st.permutations([0, 1, 2])
signs = st.tuples(*(st.sampled_from([-1.0, 1.0]) for _ in range(3)))
angles = st.tuples(*(st.floats(-180, 180) for _ in range(3)))
spacings = st.tuples(*(st.floats(0.3, 6) for _ in range(3)))


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    """Write with sform and qform of code 1, then change header fields."""
    image = nib.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def ramp(dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """SimpleITK image of an (X, Y, Z) array with a RAS+ affine without shear."""
    image = sitk.GetImageFromArray(array.T)
    lps = ph.LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


# --- one field, every format ----------------------------------------------------------------------------------------


@given(angles=angles, spacing=spacings, order=permutations, flips=signs)
@some
def test_all_formats_agree_in_world_space(tmp_path, angles, spacing, order, flips):
    axes = ph.rotation(angles)[:, order] * np.asarray(flips)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = (11.5, -40.25, 77.0)
    array = np.rint(ph.hounsfield(ph.world_grid(SHAPE, affine))).astype(np.int16)
    nifti(tmp_path / "a.nii.gz", array, affine)
    nifti(tmp_path / "b.nii", array, affine, sform_code=0)
    for name in ("c.nrrd", "d.mha", "e.mhd"):
        sitk.WriteImage(itk(array, affine), str(tmp_path / name), name != "e.mhd")
    names = ["a.nii.gz", "b.nii", "c.nrrd", "d.mha", "e.mhd"]
    if np.linalg.det(axes) > 0:  # a sorted DICOM series is right-handed
        origin = tuple(ph.LPS[:3, :3] @ affine[:3, 3])
        phantom = ph.Phantom(SHAPE, spacing, ph.LPS[:3, :3] @ axes, origin)
        names.append(f"series {phantom.origin} {hash((angles, spacing, tuple(order), flips))}")
        ph.write_series(tmp_path / names[-1], phantom.slices(), seed=1)
    for name in names:
        image, header = read_image(tmp_path / name), read_header(tmp_path / name)
        assert tuple(image.shape) == (1, *SHAPE) == (header.channels, *header.shape)
        assert str(image.dtype) == "torch.int16"
        assert image.affine.dtype.itemsize == 8
        np.testing.assert_allclose(image.affine, affine, atol=2e-4)
        np.testing.assert_array_equal(image.affine, header.affine)
        expected = ph.hounsfield(ph.world_grid(SHAPE, image.affine.numpy()))
        np.testing.assert_allclose(image.numpy()[0], expected, atol=0.51)


def test_equal_to_monai(tmp_path):
    path = nifti(tmp_path / "a # b.nii.gz", ramp())
    ours, monai = read_image(path), LoadImage(ensure_channel_first=True)(path)
    np.testing.assert_array_equal(ours.numpy(), monai.numpy())
    np.testing.assert_array_equal(ours.affine, monai.affine)


# --- values ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, bad):
    array = ramp("float32")
    array[1, 2, :3] = bad
    with pytest.raises(ImageError, match=r"a\.nii\.gz: 3 of 210 voxels are NaN or infinite; repair"):
        read_image(nifti(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "uint8"), ([0, 256], "uint16"), ([0, 65536], "int32"), ([-1, 1], "int32")],
)
@pytest.mark.parametrize("stored", ["int32", "float32"])
def test_labels_take_the_smallest_type(tmp_path, values, dtype, stored):
    array = np.zeros(SHAPE, stored)
    array[0, 0, 0], array[1, 1, 1] = values
    label = read_label(nifti(tmp_path / "a.nii.gz", array))
    assert str(label.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(label.numpy()[0], array)


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_fractional_labels_are_refused(tmp_path, bad):
    array = np.zeros(SHAPE, "float32")
    array[3, 3, 3] = bad
    with pytest.raises(ImageError, match=r"1 voxels of this label map are not whole numbers"):
        read_label(nifti(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize(("stored", "top"), [("uint16", 65535), ("int16", 32767)])
def test_labels_that_count_in_fractions_are_whole(tmp_path, classes, stored, top):
    """SPM scales class ids to the whole range of the type: 1 is stored as 32768 and read as 1.0000153."""
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % (classes + 1)
    slope = np.float32(classes / top)
    path = nifti(tmp_path / "a.nii", np.rint(labels / np.float64(slope)).astype(stored))
    raw = bytearray(path.read_bytes())  # nibabel resets the two fields on saving
    raw[112:120] = np.array([slope, 0], "<f4").tobytes()
    path.write_bytes(raw)
    assert np.abs(nib.load(path).get_fdata() - labels).max() > 0
    label = read_label(path)
    assert str(label.dtype) == "torch.uint8"
    np.testing.assert_array_equal(label.numpy()[0], labels)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.hdr", "a.tif"])
@pytest.mark.parametrize(
    ("off", "whole"), [(1e-7, True), (-1e-4, True), (1e-4, True), (3e-4, False), (-0.01, False)]
)
def test_how_far_from_a_whole_number_a_label_may_be(tmp_path, name, off, whole):
    array = np.zeros(SHAPE[:2] if name == "a.tif" else SHAPE, np.float32)
    array[1], array[2] = 1 + off, 2 + off
    if name == "a.hdr":
        nib.save(nib.Nifti1Pair(array, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.img")
    elif name == "a.nii.gz":
        nifti(tmp_path / name, array)
    elif name == "a.tif":
        tifffile.imwrite(tmp_path / name, array.T)
    else:
        sitk.WriteImage(itk(array, np.diag([2.0, 3.0, 4.0, 1.0])), str(tmp_path / name))
    if whole:
        np.testing.assert_array_equal(read_label(tmp_path / name).numpy()[0], np.rint(array))
    else:
        with pytest.raises(ImageError, match="voxels of this label map are not whole numbers"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.hdr"])
def test_a_label_is_put_into_the_order_of_its_images_axes(tmp_path, name):
    array = ramp("uint8")
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (7, -8, 9)
    image = read_header(nifti(tmp_path / "image.nii", ramp(), affine))
    turned = nib.Nifti1Image(array, affine).as_reoriented([[2, 1], [0, -1], [1, -1]])
    stored = np.ascontiguousarray(turned.dataobj)
    if name in ("a.nii.gz", "a.hdr"):
        kind = nib.Nifti1Pair if name == "a.hdr" else nib.Nifti1Image
        nib.save(kind(stored, turned.affine), tmp_path / name)
    else:
        sitk.WriteImage(itk(stored, turned.affine), str(tmp_path / name))
    label = read_label(tmp_path / name, image)
    np.testing.assert_array_equal(label.numpy()[0], array)
    np.testing.assert_array_equal(label.affine, affine)
    np.testing.assert_array_equal(read_label(tmp_path / name).numpy()[0], stored)


# --- shapes and headers ---------------------------------------------------------------------------------------------


def test_trailing_axes_of_one_are_dropped(tmp_path):
    array = ramp()
    for extra in ((1,), (1, 1)):
        path = nifti(tmp_path / "a.nii", array.reshape(*SHAPE, *extra))
        assert read_header(path).shape == SHAPE
        np.testing.assert_array_equal(read_image(path).numpy()[0], array)
    assert tuple(read_image(nifti(tmp_path / "b.nii", array[:, :, :1])).shape) == (1, 7, 6, 1)
    assert tuple(read_image(nifti(tmp_path / "c.nii", array[:, :, 0])).shape) == (1, 7, 6)


def test_time_is_refused_and_stated_channels_are_not(tmp_path):
    array = np.stack([ramp(), ramp() + 1000], axis=-1)
    path = nifti(tmp_path / "a.nii.gz", array)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"4 axes .*if the fourth axis is time, export one time point"):
            read(path)
        with pytest.raises(ImageError, match="3 channels were expected"):
            read(path, channels=3)
    np.testing.assert_array_equal(read_image(path, channels=2).numpy(), np.moveaxis(array, -1, 0))
    assert read_header(path, channels=2).channels == 2
    vector = nifti(tmp_path / "b.nii.gz", array[:, :, :, None], intent_code=1007)
    np.testing.assert_array_equal(read_image(vector).numpy(), np.moveaxis(array, -1, 0))
    with pytest.raises(ImageError, match="one channel, this file has 2"):
        read_label(vector)


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
    "metres": (lambda path: nifti(path, ramp(), xyzt_units=1), "counts in meters"),
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


@given(data=st.data())
@some
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_cut_off_files_are_never_read_wrongly(tmp_path, name, data):
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    whole = tmp_path / f"whole_{name}"
    if not whole.exists():
        if ".nii" in name:
            nifti(whole, array)
        else:
            sitk.WriteImage(itk(array, np.eye(4)), str(whole), True)
    raw = whole.read_bytes()
    path = tmp_path / name
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    try:
        image = read_image(path)
    except ImageError:
        return
    np.testing.assert_array_equal(image.numpy()[0], array)  # what was cut off said nothing


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_text_headers_cut_off_anywhere_raise_nothing_but_image_errors(tmp_path, name):
    sitk.WriteImage(itk(ramp(), np.eye(4)), str(tmp_path / name))
    raw = (tmp_path / name).read_bytes()
    end = raw.index(b"\n\n") if name == "a.nrrd" else raw.index(b"ElementDataFile")
    path = tmp_path / f"cut_{name}"
    for length in range(end):
        path.write_bytes(raw[:length])
        for read in (read_header, read_image):
            with pytest.raises(ImageError, match=path.name):
                read(path)


@given(position=st.integers(0, 347), value=st.integers(0, 255))
@settings(some, max_examples=150)
@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_raise_nothing_but_image_errors(tmp_path, position, value):
    raw = bytearray(nifti(tmp_path / "a.nii", ramp()).read_bytes())
    raw[position] = value
    (tmp_path / "b.nii").write_bytes(raw)
    try:
        header, image = read_header(tmp_path / "b.nii"), read_image(tmp_path / "b.nii")
    except ImageError:
        return
    assert (header.channels, *header.shape) == tuple(image.shape)
    assert np.isfinite(image.numpy()).all()
    assert abs(np.linalg.det(header.affine)) > 0


def test_flipped_bit_in_a_gz_is_found_by_its_checksum(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 9999, SHAPE).astype(np.int16))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1  # in the stored length: the voxels are all there, but the proof fails
    path.write_bytes(raw)
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)


def test_compression_is_told_by_content_not_by_name(tmp_path):
    array = ramp()
    nifti(tmp_path / "a.nii", array).rename(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").numpy()[0], array)


# --- NRRD and MetaImage ---------------------------------------------------------------------------------------------


def nrrd(path: Path, sizes: str, fields: str, array: np.ndarray) -> Path:
    head = (
        f"NRRD0004\ntype: uint8\ndimension: {len(sizes.split())}\nsizes: {sizes}\nencoding: raw\n{fields}\n\n"
    )
    path.write_bytes(head.encode() + array.astype(np.uint8).tobytes())
    return path


DIRECTIONS = "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (5,6,7)"


@pytest.mark.parametrize(
    ("space", "flip"),
    [
        ("left-posterior-superior", [-1, -1, 1]),
        ("right-anterior-superior", [1, 1, 1]),
        ("left-anterior-superior", [-1, 1, 1]),
    ],
)
def test_spaces_of_nrrd(tmp_path, space, flip):
    path = nrrd(tmp_path / "a.nrrd", "2 2 2", f"space: {space}\n{DIRECTIONS}", np.arange(8))
    expected = np.diag([*flip, 1.0]) @ [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_image(path).affine, expected)
    np.testing.assert_allclose(read_header(path).affine, expected)
    np.testing.assert_array_equal(read_image(path).numpy()[0], np.arange(8).reshape(2, 2, 2).T)


@pytest.mark.parametrize("fields", ["", "spacings: 1 1 1", f"space: scanner-xyz\n{DIRECTIONS}"])
def test_nrrd_without_anatomical_space(tmp_path, fields):
    path = nrrd(tmp_path / "a.nrrd", "2 2 2", fields, np.arange(8))
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match="states no anatomical orientation"):
            read(path)


def test_layered_segmentation_of_slicer(tmp_path):
    space = "space: left-posterior-superior\nspace directions: none (2,0,0) (0,3,0) (0,0,4)\nspace origin: (5,6,7)"
    kinds = "kinds: list domain domain domain\nSegment0_ID:=a\nSegment1_ID:=b"
    path = nrrd(tmp_path / "a.seg.nrrd", "2 2 2 2", f"{space}\n{kinds}", np.ones(16))
    for read in (read_label, read_image, read_header):
        with pytest.raises(
            ImageError, match=r"a\.seg\.nrrd: the segments overlap .*export them from 3D Slicer"
        ):
            read(path)
    flat = "space: left-posterior-superior\n" + DIRECTIONS + "\nkinds: domain domain domain\nSegment0_ID:=a"
    label = read_label(nrrd(tmp_path / "b.seg.nrrd", "2 2 2", flat, np.arange(8)))
    assert label.shape == (1, 2, 2, 2)


def test_channels_of_nrrd_and_mha(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, (5, 6, 7, 2)).astype(np.int16)
    image = sitk.GetImageFromArray(array, isVector=True)
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert read_header(tmp_path / name).channels == 2
        np.testing.assert_array_equal(read_image(tmp_path / name).numpy(), array.transpose(3, 2, 1, 0))
    four = sitk.GetImageFromArray(np.moveaxis(array, -1, 0).copy(), isVector=False)
    sitk.WriteImage(four, str(tmp_path / "b.mha"))
    with pytest.raises(ImageError, match="4 axes"):
        read_image(tmp_path / "b.mha")
    np.testing.assert_array_equal(
        read_image(tmp_path / "b.mha", channels=2).numpy(), array.transpose(3, 2, 1, 0)
    )


def test_mha_without_orientation(tmp_path):
    head = (
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(8))
    with pytest.raises(ImageError, match="no TransformMatrix"):
        read_image(tmp_path / "a.mha")


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)  # rows, columns, RGB


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_pictures_have_monais_axes(tmp_path, colours, name):
    Image.fromarray(colours).save(tmp_path / name)
    ours, monai = read_image(tmp_path / name), LoadImage(ensure_channel_first=True)(tmp_path / name)
    assert tuple(ours.shape) == (3, 4, 6)
    np.testing.assert_array_equal(ours.numpy(), monai.numpy())
    np.testing.assert_array_equal(ours.affine, np.eye(4))
    header = read_header(tmp_path / name)
    assert (header.channels, header.shape) == (3, (4, 6))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_depth_of_pictures_is_kept(tmp_path, suffix, channels, dtype):
    """Pillow would cut 16-bit colours down to 8 bits without a word."""
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 4, channels)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(
        sitk.GetImageFromArray(array if channels == 3 else array[..., 0], isVector=channels == 3), str(path)
    )
    np.testing.assert_array_equal(read_image(path).numpy(), array.transpose(2, 1, 0))
    assert read_header(path).channels == channels


def test_float_tiff_and_its_spacing(tmp_path):
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    np.testing.assert_array_equal(read_image(path).numpy()[0], array.T)
    np.testing.assert_allclose(np.diag(read_header(path).affine), [5e-4, 1e-3, 1, 1])
    tifffile.imwrite(path, array, resolution=(300, 300), resolutionunit="INCH")
    np.testing.assert_array_equal(read_header(path).affine, np.eye(4))
    for unit, step in (("um", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1.0), ("pixel", 2.0)):
        tifffile.imwrite(path, array, imagej=True, resolution=(2, 2), metadata={"unit": unit})
        np.testing.assert_allclose(np.diag(read_header(path).affine)[:2], step / 2, err_msg=unit)


def test_labels_in_pictures(tmp_path, colours):
    index = np.random.default_rng(1).integers(0, 4, (6, 4)).astype(np.uint8)
    palette = Image.fromarray(index)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    Image.fromarray(np.stack([index] * 3, axis=-1)).save(tmp_path / "grey.png")
    Image.fromarray(index > 1).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "p.png").numpy()[0], index.T)
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png").numpy()[0], index.T)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png").numpy()[0], index.T > 1)
    Image.fromarray(colours).save(tmp_path / "c.png")
    with pytest.raises(ImageError, match="one channel, this file has 3"):
        read_label(tmp_path / "c.png")


def test_refused_pictures(tmp_path, colours):
    clear = np.dstack([colours, np.full((6, 4), 255, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").numpy(), colours.transpose(2, 1, 0))
    clear[0, 0, 3] = 7
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 6, 4), np.uint8), photometric="minisblack")
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(colours).save(tmp_path / "turned.jpg", exif=exif)
    raw = (tmp_path / "opaque.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("alpha.png", "partly transparent"),
        ("pages.tif", "2 pages"),
        ("cmyk.jpg", "colours are CMYK"),
        ("turned.jpg", "EXIF orientation 6"),
        ("cut.png", "truncated"),
        ("text.png", "not a readable picture"),
    ):
        with pytest.raises(ImageError, match=rf"{name}: .*{message}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["grey.png", "mask.png", "deep.png", "deflated.tif", "deep.tif"])
def test_damaged_pictures_with_a_checksum_are_never_read_wrong(tmp_path, name):
    """Decoders stop at the last row, before the checksum; of a mask a flipped bit left a good-looking picture."""
    grey = np.random.default_rng(0).normal(100, 20, (60, 50)).astype(np.uint8)
    path = tmp_path / name
    if name == "mask.png":
        Image.fromarray((grey > 100).astype(np.uint8)).save(path)
    elif name == "deep.tif":
        tifffile.imwrite(path, grey.astype(np.uint16) * 200, compression="zlib")
    elif name == "deep.png":
        sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint16) * 200), str(path))
    else:
        Image.fromarray(grey).save(path, **({"compression": "tiff_adobe_deflate"} if "tif" in name else {}))
    whole, raw = read_image(path).numpy(), path.read_bytes()
    start, stop = 33, len(raw)  # of a PNG, behind what says how large it is
    if name.endswith(".tif"):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            start, stop = page.dataoffsets[0], page.dataoffsets[-1] + page.databytecounts[-1]
    chance, refused = random.Random(5), 0
    for _ in range(60):
        damaged = bytearray(raw)
        damaged[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_image(path).numpy()
        except ImageError:
            refused += 1
            continue
        np.testing.assert_array_equal(found, whole)
    assert refused > 50


@pytest.mark.parametrize("kind", ["grey", "colours", "two values", "deep"])
def test_packbits_of_another_length_are_refused(tmp_path, kind):
    """ITK only prints a warning of them, and what it returns is made up in part."""
    path, grey = tmp_path / "a.tif", np.tile(np.repeat(np.arange(6, dtype=np.uint8) * 40, 9)[:53], (60, 1))
    stored = {"colours": np.stack([grey] * 3, axis=-1), "two values": grey > 90}.get(kind, grey)
    if kind == "deep":
        sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint16) * 200), str(path), True)
        assert tifffile.TiffFile(path).pages[0].compression == tifffile.COMPRESSION.PACKBITS
        stored = grey.astype(np.uint16) * 200
    else:
        Image.fromarray(stored).save(path, compression="packbits")
    np.testing.assert_array_equal(read_image(path).numpy().squeeze().T, stored)
    raw = bytearray(path.read_bytes())
    start = tifffile.TiffFile(path).pages[0].dataoffsets[0]
    raw[start] = raw[start] + 1 if raw[start] < 127 else raw[start] - 1
    path.write_bytes(raw)
    with pytest.raises(ImageError, match=r"a\.tif: the file is damaged"):
        read_image(path)


def test_damaged_pictures_raise_nothing_but_image_errors(tmp_path, colours):
    chance = random.Random(2)
    packings = {"deflated.tif": "tiff_adobe_deflate", "packed.tif": "packbits"}
    for name in ("a.bmp", "a.tif", "a.jpg", "a.png", *packings):
        options = {"compression": packings[name]} if name in packings else {}
        Image.fromarray(colours).save(tmp_path / name, **options)
        raw = (tmp_path / name).read_bytes()
        for number in range(80):
            damaged = bytearray(raw)
            damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            (tmp_path / name).write_bytes(damaged if number % 2 else raw[: chance.randrange(len(raw))])
            with contextlib.suppress(ImageError):
                read_image(tmp_path / name)


# --- names ----------------------------------------------------------------------------------------------------------


def test_what_is_no_image(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.nii\.gz: no such file"):
        read_image(tmp_path / "absent.nii.gz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ImageError, match=r"a\.txt: not a known image format; readable are NIfTI"):
        read_header(tmp_path / "a.txt")
    (tmp_path / "d").mkdir()
    with pytest.raises(ImageError, match="no DICOM files"):
        read_image(tmp_path / "d")
    with pytest.raises(ImageError, match="no DICOM SEG or RTSTRUCT in this folder"):
        read_label(tmp_path / "d")


@given(stem=st.text(st.characters(codec="ascii", exclude_characters="/\0"), max_size=8))
def test_suffix(stem):
    assume("." not in stem)
    assert image_suffix(f"{stem}.NII.gz") == ".nii.gz"
    assert image_suffix(f"{stem}.seg.nrrd") == ".seg.nrrd"
    assert image_suffix(f"{stem}.gz") == ""


# --- real data ------------------------------------------------------------------------------------------------------


def test_openkbp_header_and_voxels(shared_data):
    image = shared_data / "openkbp" / "images" / "pt_1.nii.gz"
    label = shared_data / "openkbp" / "labels" / "pt_1.nii.gz"
    header = read_header(image)
    assert (header.channels, header.shape) == (1, (128, 128, 128))
    assert nib.aff2axcodes(header.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(read_image(image).numpy()[0], np.asarray(nib.load(image).dataobj))
    np.testing.assert_array_equal(np.unique(read_label(label).numpy()), range(5))


def test_segmentation_nrrd_lies_on_its_ct(shared_data):
    folder = shared_data / "dicom" / "seg"
    label, image = read_header(folder / "liver_spine_seg.nrrd"), read_header(folder / "ct-3slice")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
