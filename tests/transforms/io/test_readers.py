"""Readers of image and label files: the same field in world space whatever the format, and clear refusals."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.transforms import LoadImage

from tests import dicom_phantom as ph
from tests.transforms.io.written import SHAPE, itk, nifti, ramp
from transforms.io.readers import ImageError, image_suffix, read_header, read_image, read_label

some = settings(max_examples=25)
permutations = st.permutations([0, 1, 2])
signs = st.tuples(*(st.sampled_from([-1.0, 1.0]) for _ in range(3)))
angles = st.tuples(*(st.floats(-180, 180) for _ in range(3)))
spacings = st.tuples(*(st.floats(0.3, 6) for _ in range(3)))


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, bad):
    array = ramp("float32")
    array[1, 2, :3] = bad
    with pytest.raises(ImageError, match=r"a\.nii\.gz: 3 of 210 voxels are NaN or infinite; repair"):
        read_image(nifti(tmp_path / "a.nii.gz", array))


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


def test_time_is_refused_and_stated_channels_are_not(tmp_path):
    array = np.stack([ramp(), ramp() + 1000], axis=-1)
    path = nifti(tmp_path / "a.nii.gz", array)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"4 axes .*if the fourth axis is time, export one time point"):
            read(path)
        with pytest.raises(ImageError, match="holds channels, 3 are expected"):
            read(path, channels=3)
    np.testing.assert_array_equal(read_image(path, channels=2).numpy(), np.moveaxis(array, -1, 0))
    assert read_header(path, channels=2).channels == 2
    vector = nifti(tmp_path / "b.nii.gz", array[:, :, :, None], intent_code=1007)
    np.testing.assert_array_equal(read_image(vector).numpy(), np.moveaxis(array, -1, 0))
    with pytest.raises(ImageError, match="one channel, this file has 2"):
        read_label(vector)


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


# --- names ----------------------------------------------------------------------------------------------------------


def test_what_is_no_image(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.nii\.gz: no such file"):
        read_image(tmp_path / "absent.nii.gz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ImageError, match=r"a\.txt: not a known image format; readable formats are NIfTI"):
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


def test_several_files_are_the_channels_of_one_image(tmp_path):
    random = np.random.default_rng(0)
    arrays = [random.integers(-5, 5, SHAPE).astype(np.int16), random.normal(size=SHAPE).astype(np.float32)]
    paths = [tmp_path / "a_0000.nii.gz", str(tmp_path / "a_0001.nii.gz")]
    for path, array in zip(paths, arrays, strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([1, 2, 3, 1])), path)
    image, header = read_image(paths), read_header(paths)
    np.testing.assert_array_equal(image.numpy(), np.stack([a.astype(np.float32) for a in arrays]))
    assert (header.channels, *header.shape) == tuple(image.shape)
    assert image.meta["filename_or_obj"] == str(paths[0])
    assert read_image(paths[:1] * 2).dtype == torch.int16
    assert read_header([paths[0]]).channels == 1
    moved = np.diag([1.0, 2, 3, 1])
    moved[0, 3] = 4
    nib.save(nib.Nifti1Image(arrays[1], moved), paths[1])
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"a_0001.*not on the grid of .*a_0000.*4 mm apart"):
            read(paths)
    Path(paths[1]).unlink()
    with pytest.raises(ImageError, match=r"a_0001\.nii\.gz: no such file"):
        read_header(paths)


def test_dicom_folders_are_channels_too(tmp_path):
    phantom = ph.Phantom()
    for name, seed in (("early", 1), ("late", 2)):
        ph.write_series(tmp_path / name, phantom.slices(), seed=seed)
    early, late = (read_image(tmp_path / name) for name in ("early", "late"))
    both = read_image([tmp_path / "early", tmp_path / "late"])
    np.testing.assert_array_equal(both.numpy(), np.concatenate([early.numpy(), late.numpy()]))
    assert both.meta["series_uid"] == early.meta["series_uid"]
    mixed = [tmp_path / "early", tmp_path / "late.nii.gz"]
    nib.save(nib.Nifti1Image(late.numpy()[0], late.affine.numpy()), mixed[1])
    np.testing.assert_array_equal(read_image(mixed).numpy(), both.numpy())
