"""Folders of binary masks: merged as numpy merges them, and refused where they contradict each other."""

import logging

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import ImageError
from transforms.io.header import Header
from transforms.io.masks import check_masks, is_mask_folder, mask_files, read_masks
from transforms.io.readers import is_dicom_label, label_array, read_label

SHAPE = (7, 6, 5)
AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.5, 0, -30], [0, 0, 2, 10], [0, 0, 0, 1.0]])
LABELS = {0: "background", 1: "liver", 2: "spleen", 3: "aorta"}


def save(folder, name, array, affine=AFFINE):
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), folder / name)


def mask(*box):
    """Ones in a box of slices' (start, stop)."""
    array = np.zeros(SHAPE, np.uint8)
    array[tuple(slice(*each) for each in box)] = 1
    return array


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "segmentations"
    save(path, "liver.nii.gz", mask((0, 3), (0, 6), (0, 5)))
    save(path, "spleen.nii", mask((3, 5), (0, 6), (0, 5)).astype(np.float32))
    save(path, "aorta.nii.gz", mask((5, 6), (2, 3), (0, 5)).astype(np.int16))
    (path / "._liver.nii.gz").write_bytes(b"of a Mac")
    (path / "notes.txt").write_text("drawn by hand")
    return path


def test_masks_become_one_label_map(folder):
    assert is_mask_folder(folder)
    assert not is_dicom_label(folder)
    assert list(mask_files(folder)) == ["aorta", "liver", "spleen"]
    merged, affine = read_masks(folder, LABELS)
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[:3], wanted[3:5], wanted[5, 2] = 1, 2, 3
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, wanted)
    np.testing.assert_array_equal(affine, AFFINE)
    read = read_label(folder, labels=LABELS)
    assert read.shape == (1, *SHAPE)
    np.testing.assert_array_equal(read.numpy()[0], wanted)


@given(st.permutations(["liver", "spleen", "aorta"]), st.integers(1, 3))
def test_ids_follow_the_names_of_the_dataset_and_others_are_background(tmp_path_factory, names, count):
    folder = tmp_path_factory.mktemp("masks")
    places = {"aorta": 1, "liver": 2, "spleen": 4}
    for name, place in places.items():
        save(folder, f"{name}.nii", mask((place, place + 1), (0, 6), (0, 5)))
    merged, _ = read_masks(folder, {0: "background", **dict(enumerate(names[:count], 1))})
    found = [int(merged[places[name], 0, 0]) for name in names]
    assert found == [*range(1, count + 1), *[0] * (3 - count)]


def test_more_classes_than_a_byte_holds(folder):
    labels = {**{value: f"class {value}" for value in range(299)}, 299: "liver", 300: "spleen"}
    merged, _ = read_masks(folder, labels)
    assert merged.dtype == np.uint16
    assert sorted(np.unique(merged)) == [0, 299, 300]


def test_the_label_map_is_put_into_the_order_of_its_image(folder):
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    flipped[:3, 3] += AFFINE[:3, 0] * (SHAPE[0] - 1)
    array, affine = label_array(folder, Header(SHAPE, 1, flipped), LABELS)
    np.testing.assert_array_equal(array[0], read_masks(folder, LABELS)[0][::-1])
    np.testing.assert_array_equal(affine, flipped)


def test_what_is_missing_is_said_and_counts_as_absent(folder, caplog):
    (folder / "aorta.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        merged, _ = read_masks(folder, LABELS)
    assert sorted(np.unique(merged)) == [0, 1, 2]
    assert "1 of 3 masks are missing (aorta.nii.gz); their classes count as absent" in caplog.text
    with pytest.raises(
        ImageError, match=r"no mask of any class of the dataset \(lung\); .* are liver, spleen"
    ):
        read_masks(folder, {0: "background", 1: "lung"})
    with pytest.raises(ImageError, match="masks go by the names of their classes"):
        label_array(folder)


def test_a_small_overlap_goes_to_the_later_class_and_a_large_one_is_refused(folder, caplog):
    save(folder, "spleen.nii", mask((2, 5), (0, 1), (0, 5)) | mask((3, 5), (0, 6), (0, 5)))
    with caplog.at_level(logging.WARNING):
        merged, _ = read_masks(folder, LABELS)
    assert merged[2, 0, 0] == 2
    assert "overlap in 5 voxels, most those of liver and spleen (7.7% of the smaller one)" in caplog.text
    save(folder, "spleen.nii", mask((2, 5), (0, 6), (0, 5)))
    for labels in (LABELS, {0: "background", 1: "spleen", 2: "liver"}):
        with pytest.raises(
            ImageError, match=r"masks of \w+ and \w+ share 30 voxels, 33\.3% of the smaller one"
        ):
            read_masks(folder, labels)
    assert read_masks(folder, {0: "background", 1: "liver"})[0].sum() == 90


@pytest.mark.parametrize("read", [read_masks, check_masks])
def test_masks_on_other_grids_are_refused(folder, read):
    save(folder, "aorta.nii.gz", np.zeros((7, 6, 4), np.uint8))
    with pytest.raises(
        ImageError, match=r"aorta\.nii\.gz: not on the grid of liver\.nii\.gz beside it \(size"
    ):
        read(folder, LABELS)
    save(folder, "aorta.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([1.5, 1.5, 2, 1]))
    with pytest.raises(ImageError, match=r"aorta\.nii\.gz: not on the grid .*corners lie up to"):
        read(folder, LABELS)


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan, 255])
def test_a_mask_is_binary(folder, value):
    array = np.zeros(SHAPE, np.float32 if isinstance(value, float) else np.int16)
    array[2, 2, 2] = value
    save(folder, "aorta.nii.gz", array)
    with pytest.raises(ImageError, match=r"aorta\.nii\.gz: not a binary mask, its values lie between"):
        read_masks(folder, LABELS)


def test_a_damaged_or_lost_mask_is_named(folder):
    (folder / "aorta.nii.gz").write_bytes((folder / "aorta.nii.gz").read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"aorta\.nii\.gz: the file is damaged"):
        read_masks(folder, LABELS)
    (folder / "aorta.nii.gz").unlink()
    save(folder, "liver.nii", mask())
    with pytest.raises(ImageError, match=r"liver\.nii\.gz: liver\.nii is a mask of the same class"):
        check_masks(folder, LABELS)


def test_folders_that_hold_no_masks(tmp_path, folder):
    assert not is_mask_folder(tmp_path)
    assert not is_mask_folder(folder / "liver.nii.gz")
    (folder / "slice").write_bytes(bytes(128) + b"DICM")
    assert not is_mask_folder(folder)
    assert is_dicom_label(folder)
