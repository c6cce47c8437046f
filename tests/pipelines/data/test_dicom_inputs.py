"""Which case DICOM files belong to, by their headers; whole folders are in test_inputs.py."""

from pathlib import Path

from pipelines.data.dicom_inputs import (
    DicomFile,
    dicom_files,
    folders_of_one_series,
    is_one_study,
    localizer_folders,
)
from tests.pipelines.tiny_model import write_dicom

A, B, C = Path("a"), Path("b"), Path("c")


def ct(series, study="s", localizer=False):
    return DicomFile("CT", study, series, localizer)


def test_headers_are_read_and_other_files_left_out(tmp_path):
    write_dicom(tmp_path / "ct")
    (tmp_path / "ct" / "notes.txt").write_text("no image")
    files = sorted((tmp_path / "ct").iterdir())
    found = dicom_files(files)
    assert len(found) == len(files) - 1
    assert {file.modality for file in found} == {"CT"}
    assert len({file.series for file in found}) == 1


def test_a_folder_of_localizers_belongs_to_the_study_beside_it():
    scouts = [ct("1", localizer=True)]
    assert localizer_folders({A: scouts, B: [ct("2")]}) == {A}
    assert localizer_folders({A: scouts, B: [ct("2", study="other")]}) == set()
    assert localizer_folders({A: scouts}) == set()


def test_a_series_in_several_folders_is_one_group():
    assert folders_of_one_series({A: [ct("1")], B: [ct("1")], C: [ct("2")]}) == {A: {A, B}, B: {A, B}}
    chained = folders_of_one_series({A: [ct("1")], B: [ct("1"), ct("2")], C: [ct("2")]})
    assert chained[C] == chained[B] >= {B, C}


def test_one_study():
    assert is_one_study({A: [ct("1")], B: [ct("2")]})
    assert not is_one_study({A: [ct("1")], B: [ct("2", study="t")]})
    assert not is_one_study({A: [ct("1", study="")]})
