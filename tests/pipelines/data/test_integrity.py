"""What is wrong with the cases of a dataset, all in one error."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.cases import Case, Dataset, DatasetError
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.integrity import check_headers
from tests.pipelines.data.dataset_files import LABELS, describe, ids, pair, write

some = settings(max_examples=30)


def test_folders_without_description_and_with_gaps(root):
    for n in range(2):
        pair(root, f"case_{n}")
    array = np.zeros((4, 5, 3), np.uint8)
    array[0, 0, 0] = 255
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), root / "labelsTr" / "case_0.nii.gz")
    with pytest.raises(DatasetError, match=r"these hold \[0, 1, 2, 255\]; they must run from 0 to K-1"):
        load_dataset(root)


def test_one_error_lists_every_broken_case(root):
    items = [pair(root, f"c{n}") for n in range(6)]
    (root / items[0]["image"]).unlink()
    write(root / items[1]["label"], (4, 5, 4))
    write(root / items[2]["label"], affine=np.diag([-2.0, 2, 3, 1]))
    (root / items[3]["image"]).write_bytes(b"junk")
    write(root / items[4]["image"], (4, 5))
    write(root / items[4]["label"], (4, 5))
    describe(root, labels=LABELS, training=items)
    with pytest.raises(DatasetError, match=r"dataset\.json: 5 problems:") as error:
        load_dataset(root)
    for problem, parts in zip(
        sorted(error.value.problems),
        (
            ("case 'c0'", "c0.nii.gz", "no such file"),
            ("case 'c1'", "c1.nii.gz", "size (4, 5, 3) against (4, 5, 4)", "resample the label"),
            ("case 'c2'", "c2.nii.gz", "12 mm apart"),
            ("case 'c3'", "c3.nii.gz", "not a NIfTI file"),
            ("case 'c4'", "c4.nii.gz", "2 axes, but most cases have 3"),
        ),
        strict=True,
    ):
        for part in parts:
            assert part in problem
    assert load_dataset(root, check=False).num_classes == 3


@given(shift=st.floats(-1, 1), axis=st.integers(0, 2))
@some
def test_grids_are_compared_in_voxels(tmp_path, shift, axis):
    affine = np.diag([2.0, 2, 3, 1])
    write(tmp_path / "i" / "a.nii.gz", affine=affine)
    moved = affine.copy()
    moved[axis, 3] += shift * affine[axis, axis]
    write(tmp_path / "l" / "a.nii.gz", affine=moved)
    case = Case("a", (tmp_path / "i" / "a.nii.gz",), tmp_path / "l" / "a.nii.gz", "a")
    dataset = Dataset(tmp_path, "x", {0: "b", 1: "a"}, (case,))
    if abs(shift) < 0.0499:
        check_headers(dataset)
    elif abs(shift) > 0.0501:
        with pytest.raises(DatasetError, match="mm apart"):
            check_headers(dataset)


@pytest.mark.parametrize("case", ["../a", "a/b", "a:b", "", "a ", ".", "x" * 121, "a\nb", "肺" * 67, "NUL"])
def test_ids_have_to_be_file_names(root, case):
    items = [pair(root, "a") | {"case": case or "."}, pair(root, "b")]
    with pytest.raises(DatasetError, match="cannot be used as a file name"):
        load_dataset(describe(root, labels=LABELS, training=items))


def test_ids_and_images_are_unique(root):
    items = [pair(root, "a"), pair(root, "b")]
    with pytest.raises(DatasetError, match=r"listed twice \(in training and validation\)"):
        load_dataset(describe(root, labels=LABELS, training=items, validation=[items[0]]))
    items.append(pair(root, "A", "other", "otherL"))
    with pytest.raises(DatasetError, match="upper and lower case"):
        load_dataset(describe(root, labels=LABELS, training=items))


@pytest.mark.parametrize("axes", ["LAS", "RAS", "PSL"])
def test_a_label_on_the_same_voxels_in_another_order_is_taken(root, axes):
    item = pair(root, "a")
    stored = nib.load(root / item["label"])
    turn = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], nib.orientations.axcodes2ornt(axes))
    nib.save(stored.as_reoriented(turn), root / item["label"])
    describe(root, labels=LABELS, training=[item])
    assert ids(load_dataset(root, validation_fraction=0).training) == ["a"]
    moved = stored.affine.copy()
    moved[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), moved).as_reoriented(turn), root / item["label"])
    with pytest.raises(DatasetError, match="is not on the grid of image"):
        load_dataset(root, validation_fraction=0)
