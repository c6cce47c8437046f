"""Which files belong together, and what the classes are called."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.data.inputs import InputError
from pipelines.evaluation.pairs import (
    Pair,
    Pairs,
    find_pairs,
    labels_of,
    numbered,
    read_labels,
    segmentations,
)


def put(folder, *names, values=(0, 1, 2)):
    folder.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(values, np.uint8), (4, 3, 2))
    for name in names:
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / name)
    return folder


def test_names_without_ending_and_channel_number(tmp_path):
    predictions = put(tmp_path / "p", "a.nii.gz", "b_0000.nii.gz", "only_here.nii")
    references = put(tmp_path / "r", "a.nii", "b.nii.gz", "left_out.nii.gz")
    (predictions / "._a.nii.gz").write_bytes(b"what macOS leaves in archives")
    (predictions / "metrics.csv").write_text("case")
    pairs = find_pairs(predictions, references)
    assert [(p.case, p.prediction.name, p.reference.name) for p in pairs.found] == [
        ("a", "a.nii.gz", "a.nii"),
        ("b", "b_0000.nii.gz", "b.nii.gz"),
    ]
    assert pairs.without_prediction == ["left_out"]
    assert pairs.without_reference == ["only_here"]


def test_a_name_that_ends_in_0000_stays_where_both_are_there(tmp_path):
    assert list(segmentations(put(tmp_path, "a.nii.gz", "a_0000.nii.gz"))) == ["a", "a_0000"]


def test_what_predict_writes_beside_its_label_maps_is_no_segmentation(tmp_path):
    folder = put(tmp_path, "a.nii.gz", "a_probabilities.nii.gz", "b_preview.nii.gz")
    (folder / "a_preview.png").write_bytes(b"png")
    (folder / "a.json").write_text("{}")
    (folder / "a.seg.dcm").write_bytes(b"dicom")
    found = segmentations(folder)
    assert list(found) == ["a", "b_preview"]
    assert found["a"].name == "a.nii.gz", "the file that needs no grid"


def test_folders_of_cases_and_datasets(tmp_path):
    put(tmp_path / "cases" / "p1", "segmentation.nii.gz")
    put(tmp_path / "cases" / "p2", "labels.nrrd.nii.gz")
    (tmp_path / "cases" / "p3").mkdir()
    (tmp_path / "cases" / "p3" / "seg.dcm").write_bytes(b"dicom")
    found = segmentations(tmp_path / "cases")
    assert {name: path.name for name, path in found.items()} == {
        "p1": "segmentation.nii.gz",
        "p2": "labels.nrrd.nii.gz",
        "p3": "p3",
    }
    put(tmp_path / "msd" / "labelsTr", "liver_1.nii.gz")
    put(tmp_path / "msd" / "imagesTr", "liver_1.nii.gz")
    assert list(segmentations(tmp_path / "msd")) == ["liver_1"]


def test_two_files_are_a_pair_whatever_they_are_called(tmp_path):
    put(tmp_path, "prediction.nii.gz", "truth.nii.gz")
    (pair,) = find_pairs(tmp_path / "prediction.nii.gz", tmp_path / "truth.nii.gz").found
    assert pair.case == "truth"


def test_images_are_matched_like_segmentations(tmp_path):
    predictions, references = (
        put(tmp_path / "p", "a.nii.gz", "b.nii.gz"),
        put(tmp_path / "r", "a.nii.gz", "b.nii.gz"),
    )
    images = put(tmp_path / "i", "a_0000.nii.gz", "c_0000.nii.gz")
    first, second = find_pairs(predictions, references, images).found
    assert first.image["image"].endswith("a_0000.nii.gz")
    assert second.image is None


def test_what_cannot_be_matched_is_said(tmp_path):
    predictions, references = put(tmp_path / "p", "x.nii.gz"), put(tmp_path / "r", "y.nii.gz")
    for given, said in (
        ((tmp_path / "absent", references), "absent does not exist"),
        ((predictions / "x.nii.gz", references), "is a file and .*r a folder"),
        ((predictions, references), r"no file of .*p \(x\) has the same name as one of .*r \(y\)"),
    ):
        with pytest.raises(InputError, match=said):
            find_pairs(*given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no segmentation"):
        segmentations(tmp_path / "empty")
    with pytest.raises(InputError, match="have the same name 'x'"):
        segmentations(put(tmp_path / "p", "x.nii"))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"labels": {"0": "background", "2": "cyst", "1": "liver"}}, {1: "liver", 2: "cyst"}),
        ({"labels": {"background": 0, "liver": 1, "cyst": 7}}, {1: "liver", 7: "cyst"}),
        ({"0": "background", "1": "liver"}, {1: "liver"}),
        ({"liver": "3"}, {3: "liver"}),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, {1: "liver"}),
    ],
)
def test_class_names_of_msd_nnunet_and_ours(tmp_path, content, names):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    found = read_labels(path).labels
    assert {value: name for value, name in found.items() if value != 0} == names


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"labels": {"background": 0, "whole": [1, 2], "all": [2, 1]}},
            "'whole' and 'all' of the same values",
        ),
        ({"labels": {"background": 0, "liver": 2, "ignore": 1}}, "one value above all others, 3"),
        ({"labels": {"1": "liver", "2": "liver"}}, "two ids the same name"),
        ({"labels": {"liver": 1, "cyst": 1}}, "gives the value 1 two names"),
        ({"labels": {"liver": "one"}}, "does not map class ids to names"),
        ({"labels": {}}, "does not name classes"),
        ([1], "does not name classes"),
        ({"0": "background"}, "besides the background"),
    ],
)
def test_names_that_are_uncertain_are_refused(tmp_path, content, said):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        read_labels(path)
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_labels(path)


def test_names_come_from_files_beside_the_maps_or_from_their_values(tmp_path):
    predictions = put(tmp_path / "p", "a.nii.gz", values=(0, 2, 5))
    references = put(tmp_path / "data" / "labelsTr", "a.nii.gz", values=(0, 1, 2))
    pairs, folders = find_pairs(predictions, references).found, (predictions, references)
    assert labels_of(pairs, None, folders).labels == {1: "class_1", 2: "class_2", 5: "class_5"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": {"1": "one", "2": "two"}}))
    assert labels_of(pairs, None, folders).labels == {1: "one", 2: "two"}
    (predictions / "labels.json").write_text(json.dumps({"0": "background", "1": "eins"}))
    assert labels_of(pairs, None, folders).labels == {0: "background", 1: "eins"}
    assert labels_of(pairs, tmp_path / "data" / "dataset.json", folders).labels == {1: "one", 2: "two"}
    empty = put(tmp_path / "empty", "a.nii.gz", values=(0,))
    with pytest.raises(InputError, match="all label maps are empty"):
        labels_of(find_pairs(empty, empty).found, None, (empty, empty))


def test_regions_of_a_dataset(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 5], "core": 5, "ignore": 9}}))
    found = read_labels(path)
    assert found.labels == {0: "background", 1: "whole without core", 5: "core"}
    assert found.regions == {"whole": (1, 5), "core": (5,)}
    assert found.ignore == 9
    assert found.segments == {0: "background", 1: "whole", 5: "core", 9: "ignore"}


def test_numbered_pairs_keep_the_order_of_the_names():
    pair = Pair("doe", Path("p/doe.nii.gz"), Path("r/doe.nii.gz"))
    found = numbered(Pairs([pair], ["zoe"], ["adams"]))
    assert found == Pairs([pair._replace(case="case002")], ["case003"], ["case001"])
