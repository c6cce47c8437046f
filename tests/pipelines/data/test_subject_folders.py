"""TotalSegmentator's layout as a dataset: lists, classes, stores and checks, and what is wrong with a subject."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from pipelines.__main__ import main
from pipelines.data.case_state import content_digest
from pipelines.data.cases import DatasetError
from pipelines.data.check import check
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.inputs import find_inputs
from pipelines.data.patch_store import PatchStore
from pipelines.data.volume_dataset import VolumeDataset
from tests.pipelines.data.dataset_files import describe, ids, subject
from transforms.preprocess import Preprocess

META = "\ufeffimage_id;age;split\ns1;40;train\ns2;50;train\ns3;60;val\ns4;70;test\ns9;80;train\n"


@pytest.fixture
def root(root):
    for number in range(1, 5):
        subject(root, f"s{number}", seed=number)
    (root / "meta.csv").write_text(META, encoding="utf-8")
    (root / "pictures").mkdir()
    return root


def test_lists_and_classes(root):
    data = load_dataset(root)
    assert [ids(data.cases(split)) for split in ("training", "validation", "test")] == [
        ["s1", "s2"],
        ["s3"],
        ["s4"],
    ]
    assert data.class_names == ["background", "liver", "spleen"]
    assert (data.channels, data.channel_names) == (1, ["CT"])
    assert data.test[0].label == root / "s4" / "segmentations"
    assert [item["case"] for item in find_inputs(root, split="validation")] == ["s3"]


def test_without_a_table_all_are_for_training(root):
    (root / "meta.csv").unlink()
    for folder in root.glob("s?"):
        (folder / "ct.nii.gz").rename(folder / "mri.nii.gz")
    data = load_dataset(root, validation_fraction=0)
    assert ids(data.training) == ["s1", "s2", "s3", "s4"]
    assert data.channel_names == ["MRI"]
    shutil.copy(root / "s1" / "mri.nii.gz", root / "s5.nii.gz")  # beside the subjects, not a subject
    assert load_dataset(root, validation_fraction=0).training == data.training


def test_classes_are_the_union_of_all_masks_or_those_that_are_named(root):
    subject(root, "s2", ("liver", "spleen", "aorta"))
    assert load_dataset(root).class_names == ["background", "aorta", "liver", "spleen"]
    describe(root, labels=["spleen", "liver"], name="two organs", channel_names={"0": "noNorm"})
    data = load_dataset(root)
    assert (data.labels, data.name) == ({0: "background", 1: "spleen", 2: "liver"}, "two organs")
    assert data.channel_names == ["noNorm"]
    describe(root, labels={"background": 0, "liver": 1})
    assert load_dataset(root).labels == {0: "background", 1: "liver"}
    describe(root, labels=["lung", "liver"])
    with pytest.raises(
        DatasetError, match=r"no subject has a mask lung\.nii\.gz .* there are aorta, liver, spleen"
    ):
        load_dataset(root)


def test_everything_wrong_is_said_at_once(root):
    subject(root, "s5")
    (root / "s1" / "ct.nii.gz").unlink()
    shutil.copy(root / "s2" / "ct.nii.gz", root / "s2" / "mri.nii.gz")
    shutil.rmtree(root / "s3" / "segmentations")
    with pytest.raises(DatasetError) as error:
        load_dataset(root)
    said = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    assert "case 's1'" in said
    assert "neither ct.nii.gz nor mri.nii.gz" in said
    assert "case 's2'" in said
    assert "ct.nii.gz and mri.nii.gz" in said
    assert "segmentations has no masks" in said
    assert "meta.csv has no row for it" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_id;split\ns1;train\ns2;holdout", "has the split 'holdout'"),
        ("image_id;split\ns1;train\ns1;val", "stands in two splits"),
        ("subject,split\ns1,train", 'no column "image_id"'),
        ("image_id;split\ns1;test\ns2;test\ns3;test\ns4;val", "no subject is for training"),
    ],
)
def test_a_table_that_cannot_be_used(root, text, said):
    (root / "meta.csv").write_text(text)
    with pytest.raises(DatasetError, match=said):
        load_dataset(root)


def test_ct_and_mri_are_not_mixed_without_a_word(root):
    (root / "s2" / "ct.nii.gz").rename(root / "s2" / "mri.nii.gz")
    with pytest.raises(DatasetError, match="some subjects have a CT and others an MRI"):
        load_dataset(root)
    describe(root, channel_names={"0": "MRI"})
    assert load_dataset(root).channel_names == ["MRI"]


def test_grids_are_compared_without_reading_voxels(root):
    other = nib.Nifti1Image(np.zeros((6, 5, 4), np.uint8), np.diag([1.5, 1.5, 2, 1]))
    for name in ("liver", "spleen"):
        nib.save(other, root / "s2" / "segmentations" / f"{name}.nii.gz")
    nib.save(other, root / "s3" / "segmentations" / "spleen.nii.gz")
    with pytest.raises(DatasetError) as error:
        load_dataset(root)
    first, second = error.value.problems
    assert first.startswith("case 's2': label")
    assert "is not on the grid of image" in first
    assert second.startswith("case 's3': label")
    assert "spleen.nii.gz: not on the grid of liver.nii.gz" in second


def test_check_names_the_masks_and_counts_their_voxels(root, capsys):
    (root / "s3" / "segmentations" / "spleen.nii.gz").unlink()
    found = {case.case: case for case in check(root).cases}
    assert found["s1"].classes == {"background": 80, "liver": 20, "spleen": 20}
    assert found["s1"].label_kind == "NIfTI masks"
    assert "1 of 2 masks are missing (spleen.nii.gz)" in found["s3"].notices[0]
    assert main(["check", str(root)]) == 0
    assert capsys.readouterr().out.endswith("4 cases, 0 refused\n")
    mask = root / "s1" / "segmentations" / "liver.nii.gz"
    mask.write_bytes(mask.read_bytes()[:-9])
    assert main(["check", str(root)]) == 1
    assert "liver.nii.gz: the file is damaged" in capsys.readouterr().out


def test_a_store_holds_the_merged_masks_and_follows_every_file(root, tmp_path):
    def built():
        data = load_dataset(root)
        return PatchStore(tmp_path / "store", Preprocess(), data.as_dicts("training"), data.labels, 0, False)

    store = built().build()
    wanted = np.zeros((6, 5, 4), np.uint8)
    wanted[0], wanted[1] = 1, 2
    np.testing.assert_array_equal(store.case(0).read_label([slice(None)] * 3), wanted)
    data = load_dataset(root)
    before = data.digest(), store.case(0).sha256["label"]
    folder = root / "s1" / "segmentations"
    (folder / "liver.nii.gz").rename(folder / "kept.nii.gz")
    (folder / "spleen.nii.gz").rename(folder / "liver.nii.gz")
    (folder / "kept.nii.gz").rename(folder / "spleen.nii.gz")
    assert content_digest(str(folder)) != before[1]
    assert load_dataset(root).digest() != before[0]
    assert not built().complete
    swapped = np.where(wanted > 0, 3 - wanted, 0)
    np.testing.assert_array_equal(built().build().case(0).read_label([slice(None)] * 3), swapped)
    item = VolumeDataset(data.as_dicts("training"), Preprocess(), labels=data.labels)[0]
    np.testing.assert_array_equal(item["label"].numpy()[0], swapped)


def test_another_choice_of_classes_is_another_store(root, tmp_path):
    for labels in (["liver", "spleen"], ["spleen", "liver"]):
        describe(root, labels=labels)
        data = load_dataset(root)
        store = PatchStore(
            tmp_path / "store", Preprocess(), data.as_dicts("training"), data.labels, 0, False
        ).build()
        label = store.case(0).read_label([slice(None)] * 3)
        assert label[0].min() == labels.index("liver") + 1
        assert label[1].max() == labels.index("spleen") + 1


def test_a_dataset_json_may_name_folders_of_masks(root):
    entry = {"case": "s1", "image": "s1/ct.nii.gz", "label": "s1/segmentations"}
    content = {"labels": {"0": "background", "1": "spleen"}, "training": [entry]}
    (root / "dataset.json").write_text(json.dumps(content))
    data = load_dataset(root, validation_fraction=0)
    assert data.class_names == ["background", "spleen"]
    assert check(root).cases[0].classes == {"background": 100, "spleen": 20}
