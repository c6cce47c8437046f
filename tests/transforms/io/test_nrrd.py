"""Headers of NRRD files."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from transforms.io.readers import ImageError, read_header, read_image, read_label


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


def test_segmentation_nrrd_lies_on_its_ct(shared_data):
    folder = shared_data / "dicom" / "seg"
    label, image = read_header(folder / "liver_spine_seg.nrrd"), read_header(folder / "ct-3slice")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
