"""Which files make one image."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from transforms.io.image_files import image_files


def test_both_files_of_a_pair(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "a.img")
    header, voxels = tmp_path / "a.hdr", tmp_path / "a.img"
    assert image_files(header) == [header, voxels]
    assert image_files(voxels) == [voxels, header]


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_a_header_of_text_and_the_file_that_it_names(tmp_path, name):
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(tmp_path / name), True)
    (data,) = (path for path in tmp_path.iterdir() if path.name != name)
    text = (tmp_path / name).read_text().replace(data.name, "voxels of a")
    (tmp_path / name).write_text(text)
    data.rename(tmp_path / "voxels of a")
    assert image_files(tmp_path / name) == [tmp_path / name, tmp_path / "voxels of a"]


@pytest.mark.parametrize("stated", ["LIST\na0.raw\na1.raw", "a%d.raw 0 1 1"])
def test_slices_in_files_of_their_own(tmp_path, stated):
    for number in range(2):
        (tmp_path / f"a{number}.raw").write_bytes(bytes(8))
    path = tmp_path / "a.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        f"ElementDataFile = {stated}\n"
    )
    assert sitk.ReadImage(str(path)).GetSize() == (2, 2, 2)
    assert image_files(path) == [path, tmp_path / "a0.raw", tmp_path / "a1.raw"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.png", "broken.mhd"])
def test_all_other_images_are_one_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89 anything")
    assert image_files(tmp_path / name) == [tmp_path / name]
