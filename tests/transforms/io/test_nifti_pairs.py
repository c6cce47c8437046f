"""NIfTI in two files: read wherever an image is, whole or refused; ANALYZE 7.5 by its name."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from transforms.errors import ImageError
from transforms.io.header import image_suffix, names_image
from transforms.io.readers import read_header, read_image, read_label

AFFINE = np.array([[-0.8, 0, 0, 100], [0, -0.8, 0, 50], [0, 0, 3, -400], [0, 0, 0, 1.0]])
ARRAY = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)


def pair(folder, name="a", array=ARRAY, kind=nib.Nifti1Pair):
    image = kind(array, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    nib.save(image, folder / f"{name}.img")
    return folder / f"{name}.hdr", folder / f"{name}.img"


@pytest.mark.parametrize("writer", ["NIfTI-1", "NIfTI-2", "ITK", "packed", "upper case"])
@pytest.mark.parametrize("named", ["header", "voxels"])
def test_a_pair_is_read_by_either_name(tmp_path, writer, named):
    header, voxels = pair(tmp_path, kind=nib.Nifti2Pair if writer == "NIfTI-2" else nib.Nifti1Pair)
    if writer == "ITK":
        sitk.WriteImage(sitk.ReadImage(str(header)), str(tmp_path / "b.hdr"))
        header, voxels = tmp_path / "b.hdr", tmp_path / "b.img"
        assert voxels.is_file()
    elif writer == "packed":
        (tmp_path / "a.img.gz").write_bytes(gzip.compress(voxels.read_bytes()))
        voxels.unlink()
        voxels = tmp_path / "a.img.gz"
    elif writer == "upper case":
        header, voxels = (path.rename(path.with_name(path.name.upper())) for path in (header, voxels))
    path = header if named == "header" else voxels
    image = read_image(path)
    np.testing.assert_array_equal(image.numpy()[0], ARRAY)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert read_header(path).shape == ARRAY.shape
    np.testing.assert_array_equal(read_label(path).numpy()[0], ARRAY)


def test_the_header_stands_for_the_image_in_a_folder(tmp_path):
    header, voxels = pair(tmp_path)
    assert [image_suffix(header), image_suffix(voxels)] == [".hdr", ".img"]
    assert [names_image(header), names_image(voxels)] == [True, False]
    header.unlink()
    assert image_suffix(voxels) == "", "it may be anything, DICOM as well"


def test_half_a_pair_and_two_of_one_half_are_refused(tmp_path):
    header, voxels = pair(tmp_path)
    (tmp_path / "a.img.gz").write_bytes(gzip.compress(voxels.read_bytes()))
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match=r"a\.hdr: a\.img and a\.img\.gz may both hold the voxels"):
            read(header)
    (tmp_path / "a.img.gz").unlink()
    whole = voxels.read_bytes()
    voxels.write_bytes(whole[:-1])
    with pytest.raises(ImageError, match=r"a\.img: cut off or damaged"):
        read_image(header)
    voxels.unlink()
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match=r"a\.hdr: the \.img file with the voxels is missing"):
            read(header)


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_analyze_is_refused_by_its_name(tmp_path, kind, endian):
    image = kind(ARRAY, AFFINE, header=kind.header_class(endianness=endian))
    nib.save(image, tmp_path / "old.img")
    for path in (tmp_path / "old.hdr", tmp_path / "old.img"):
        for read in (read_header, read_image, read_label):
            with pytest.raises(ImageError, match=r"an ANALYZE 7\.5 image, which states no orientation"):
                read(path)


def test_the_header_of_a_pair_under_another_name_says_so(tmp_path):
    header, _ = pair(tmp_path)
    header.rename(tmp_path / "a.nii")
    for read in (read_header, read_image):
        with pytest.raises(
            ImageError, match=r"a\.nii: the header says that the voxels lie in a separate \.img"
        ):
            read(tmp_path / "a.nii")
