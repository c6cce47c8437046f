"""What is said of a cohort before it is trained on."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from pipelines.data.cases import Dataset
from pipelines.data.cohort import missing_foreground, stated_normalization
from pipelines.data.patch_dataset import PatchDataset
from pipelines.data.patch_store import MAX_REMARKS
from pipelines.data.volume_dataset import VolumeDataset
from tests.pipelines.small import write_ct
from transforms.preprocess import Preprocess

NAMES = {0: "background", 1: "lung", 2: "liver", 3: "bone"}


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({}, None),
        ({"modality": {}}, None),
        ({"modality": {"0": "CT"}}, ["CT"]),
        ({"channel_names": {"0": "ct"}}, ["CT"]),
        ({"modality": ["PET", "low-dose CT"]}, ["zscore", "CT"]),
        ({"modality": {"0": "MRI"}}, ["zscore"]),
        ({"channel_names": {"0": "NONORM", "1": "rgb_TO_0_1"}}, ["noNorm", "rgb_to_0_1"]),
        ({"modality": "fundus"}, "zscore"),
        ({"modality": "CT"}, "CT"),
        ({"modality": {"0": "octahedral"}}, ["zscore"]),
    ],
)
def test_what_names_of_channels_say(tmp_path, stated, words):
    names = next(iter(stated.values()), None)
    channels = len(names) if isinstance(names, (dict, list)) and names else None
    dataset = Dataset(tmp_path, "a", NAMES, (), channels=channels, description=json.dumps(stated))
    assert stated_normalization(dataset) == words


def test_cases_and_classes_without_foreground_are_named():
    assert missing_foreground({"a": [1, 2], "b": [3]}, NAMES) == []
    empty, unseen = missing_foreground({"a": [1], "b": [], "c": ()}, NAMES)
    assert empty.startswith("2 of 3 training cases have no foreground: b, c;")
    assert unseen.startswith("no training case has the classes liver, bone,")
    many = missing_foreground({str(i): [] for i in range(50)}, {0: "background"})[0]
    assert "50 of 50" in many
    assert "8, 9 and 40 more" in many


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("pipelines")]


def test_a_training_is_told_before_it_starts(tmp_path, caplog):
    cases = [write_ct(tmp_path, name, classes=(1,)) for name in "ab"]
    label = nib.load(cases[1]["label"])
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), cases[1]["label"])
    wrong = write_ct(tmp_path, "c", classes=(1, 2))
    values = nib.load(wrong["image"])
    nib.save(nib.Nifti1Image(np.asarray(values.dataobj) + np.int16(1024), values.affine), wrong["image"])
    options = {
        "patch_size": (8, 8, 8),
        "num_patches": 4,
        "preprocess": Preprocess(),
        "root": tmp_path / "store",
    }
    for again in range(2):  # what was built before is told of as well
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pipelines"):
            PatchDataset([*cases, wrong], labels=NAMES, num_workers=0, progress=False, **options)
        said = told(caplog)[-3:]
        assert said[0].startswith(f"case c: {wrong['image']}: not a CT in Hounsfield units"), again
        assert said[1].startswith("1 of 3 training cases have no foreground: b;")
        assert said[2].startswith("no training case has the class bone,")
    caplog.clear()
    VolumeDataset([*cases, wrong], Preprocess(), tmp_path / "store", NAMES, 0)
    assert [line[:7] for line in told(caplog)] == ["case c:"]


def test_a_cohort_of_another_kind_does_not_fill_the_screen(tmp_path):
    cases = []
    for number in range(MAX_REMARKS + 5):
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / f"{number}.nii")
        cases.append({"image": str(tmp_path / f"{number}.nii")})
    dataset = VolumeDataset(cases, Preprocess(), tmp_path / "store", num_workers=0)
    found = dataset.store.remarks(training=False)
    assert len(found) == MAX_REMARKS + 1
    assert found[-1] == "... and 5 more notices, see `check`"
