"""Cases that a program lists by itself are checked and split like those of a folder."""

import pytest

from pipelines.data.cases import DatasetError
from pipelines.data.given_cases import given_dataset
from tests.pipelines.small import write_ct

LABELS = {"background": 0, "lung": 1, "liver": 2}


@pytest.fixture
def cases(tmp_path):
    return [
        {key: value for key, value in write_ct(tmp_path / "cohort", f"ct{number}").items() if key != "case"}
        for number in range(5)
    ]


def test_lists_are_the_splits(cases, tmp_path):
    data = given_dataset(cases[:4], cases[4:], LABELS)
    assert [case.id for case in data.training] == ["ct0", "ct1", "ct2", "ct3"]
    assert [case.id for case in data.validation] == ["ct4"]
    assert data.class_names == ["background", "lung", "liver"]
    assert data.name == "5 cases of imagesTr"
    assert data.root == tmp_path / "cohort" / "imagesTr"
    assert data.as_dicts("training")[0] == {**cases[0], "case": "ct0"}


def test_a_fifth_validates_unless_a_list_says_that_none_does(cases):
    assert [len(given_dataset(cases).cases(split)) for split in ("training", "validation")] == [4, 1]
    assert [len(given_dataset(cases, []).cases(split)) for split in ("training", "validation")] == [5, 0]


def test_classes_without_names_come_from_the_label_maps(cases):
    assert list(given_dataset(cases, []).labels) == [0, 1, 2]


def test_regions_are_what_is_measured(cases):
    data = given_dataset(cases, [], {"background": 0, "trunk": [1, 2], "liver": [2]})
    assert data.regions == {"trunk": (1, 2), "liver": (2,)}


def test_paths_may_be_relative_to_the_working_directory(cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "cohort")
    near = [{"image": f"imagesTr/ct{i}.nii.gz", "label": f"labelsTr/ct{i}.nii.gz"} for i in range(2)]
    assert given_dataset(near, []).training[0].image == tmp_path / "cohort" / "imagesTr" / "ct0.nii.gz"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "has no label"),
        ({"image": "nowhere.nii.gz"}, "nowhere.nii.gz"),
        ({"case": "ct1"}, "have the same case id"),
    ],
)
def test_what_is_wrong_with_a_case_is_said(cases, change, said):
    with pytest.raises(DatasetError, match=said):
        given_dataset([{**cases[0], **change}, *cases[1:]], [], LABELS)


def test_an_empty_list_is_refused():
    with pytest.raises(DatasetError, match="the list of cases is empty"):
        given_dataset([], [], LABELS)
