"""What nnU-Net can have of a dataset, without a file being made."""

import json
from pathlib import Path

import pytest

from pipelines.data.cases import Case, Dataset
from pipelines.data.conversion.nnunet import check_folder_name, layout
from pipelines.data.dataset_json import Item


def dataset(*names):
    stated = json.dumps({"channel_names": list(names)})
    return Dataset(Path("d"), "d", {0: "background", 1: "liver"}, (), description=stated)


def item(case, images, label, split="training"):
    return Item(Case(case, tuple(Path(image) for image in images), label and Path(label), case), split)


def found(data, *items, write_labels=False):
    problems = []
    return layout(data, items, write_labels, problems), problems


def test_every_file_has_its_name():
    wanted, problems = found(
        dataset("T1", "T2"),
        item("a", ["x.nrrd", "y.nrrd"], "l.seg.nrrd"),
        item("b", ["p.nrrd", "q.nrrd"], None, "test"),
        item("c", ["r.nrrd", "s.nrrd"], "t.nrrd", "test"),
    )
    assert problems == []
    assert wanted.ending == ".nrrd"
    assert {name: str(path) for name, path in wanted.links.items()} == {
        "imagesTr/a_0000.nrrd": "x.nrrd",
        "imagesTr/a_0001.nrrd": "y.nrrd",
        "labelsTr/a.nrrd": "l.seg.nrrd",
        "imagesTs/b_0000.nrrd": "p.nrrd",
        "imagesTs/b_0001.nrrd": "q.nrrd",
        "imagesTs/c_0000.nrrd": "r.nrrd",
        "imagesTs/c_0001.nrrd": "s.nrrd",
        "labelsTs/c.nrrd": "t.nrrd",
    }


def test_a_picture_in_colour_is_one_file():
    wanted, problems = found(dataset("R", "G", "B"), item("a", ["a.png"], "l.png"))
    assert problems == []
    assert list(wanted.links) == ["imagesTr/a_0000.png", "labelsTr/a.png"]


@pytest.mark.parametrize("write_labels", [False, True])
def test_labels_of_another_format_are_written_or_refused(write_labels):
    wanted, problems = found(dataset("CT"), item("a", ["a.nii.gz"], "l.nrrd"), write_labels=write_labels)
    if write_labels:
        assert problems == []
        assert [(case.id, name) for case, name in wanted.labels] == [("a", "labelsTr/a.nii.gz")]
    else:
        assert len(problems) == 1
        assert "say --write-labels" in problems[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a.mhd"], "1 images are others, such as a.mhd"),
        (["a.nii.gz", "b.nii.gz"], "case 'a': 2 files for 1 channels"),
    ],
)
def test_images_that_it_cannot_read_are_named(files, said):
    _, problems = found(dataset("CT"), item("a", files, "l.nii.gz"))
    assert said in problems[0]


@pytest.mark.parametrize("name", ["Dataset001_Liver", "Dataset999_a-b"])
def test_folder_names(name):
    problems = []
    check_folder_name(Path(name), "Left lung", problems)
    assert problems == []
    check_folder_name(Path(name[3:]), "Left lung", problems)
    assert "Dataset001_Left_lung" in problems[0]
