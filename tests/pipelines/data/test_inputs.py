"""What is taken for an image, and what for a case."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from pipelines.data.cases import DatasetError
from pipelines.data.inputs import InputError, case_id, find_inputs
from tests import dicom_phantom as ph
from tests.opened_files import aged, opened_below
from tests.pipelines.data.dataset_files import write
from tests.pipelines.small import NAMES, write_ct, write_dataset
from tests.pipelines.tiny_model import write_dicom
from transforms.io.readers import read_header, read_image


def names(path, **options):
    return {case["case"]: case["image"] for case in find_inputs(path, **options)}


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("a.nii.gz", "a"),
        ("A.B.NII.GZ", "A.B"),
        ("ct.nrrd", "ct"),
        ("x.mha", "x"),
        ("p.PNG", "p"),
        ("IM0001", "IM0001"),
        ("enhanced.dcm", "enhanced"),
    ],
)
def test_a_file_is_one_case(tmp_path, file, case):
    (tmp_path / file).touch()
    assert names(tmp_path / file) == {case: str(tmp_path / file)}


def test_a_folder_of_images_is_a_case_each(tmp_path):
    for file in ("b.nii.gz", "a.nrrd", ".hidden.nii.gz", "readme.txt"):
        (tmp_path / file).touch()
    (tmp_path / "series").mkdir()
    assert list(names(tmp_path)) == ["a", "b"]


def test_a_folder_of_other_files_is_one_dicom_series(tmp_path, monkeypatch):
    folder = tmp_path / "patient 1"
    folder.mkdir()
    for file in ("IM1", "IM2.dcm"):
        (folder / file).touch()
    assert names(folder) == {"patient 1": str(folder)}
    monkeypatch.chdir(folder)
    assert list(names(".")) == ["patient 1"]


def test_a_folder_of_folders_is_a_case_each(tmp_path):
    write_dicom(tmp_path / "s2")
    write_dicom(tmp_path / "s1" / "study" / "series", series="other")
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "ct.nii.gz").touch()
    (tmp_path / ".cache").mkdir()
    assert names(tmp_path) == {
        "s1": str(tmp_path / "s1"),
        "s2": str(tmp_path / "s2"),
        "s3": str(tmp_path / "s3" / "ct.nii.gz"),
    }


def test_files_and_dicom_folders_may_lie_side_by_side(tmp_path):
    write_dicom(tmp_path / "s")
    (tmp_path / "a.nii.gz").touch()
    assert list(names(tmp_path)) == ["a", "s"]


def test_a_folder_without_an_image_is_a_case_that_fails(tmp_path):
    write_dicom(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for file in ("ct.nii.gz", "seg.nii.gz"):
        (tmp_path / "two" / file).touch()
    found = {case["case"]: case.get("problem", "") for case in find_inputs(tmp_path)}
    assert found["full"] == ""
    assert "empty is empty" in found["empty"]
    assert "2 image files in the folder of one case (ct.nii.gz, seg.nii.gz)" in found["two"]


def spread(series, *folders):
    """Move the slices of one folder to several, in turn."""
    for index, file in enumerate(sorted(series.iterdir())):
        target = folders[index % len(folders)]
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target / file.name)
    series.rmdir()


def test_a_series_in_several_subfolders_is_one_case(tmp_path):
    study = tmp_path / "study"
    write_dicom(study / "all")
    spread(study / "all", study / "part1", study / "part2")
    assert names(study) == {"study": str(study)}


def test_a_series_in_two_folders_of_a_cohort_never_becomes_two_half_cases(tmp_path):
    write_dicom(tmp_path / "all")
    spread(tmp_path / "all", tmp_path / "p1", tmp_path / "p2" / "deep")
    write_dicom(tmp_path / "p3", series="other")
    found = {case["case"]: case.get("problem", "") for case in find_inputs(tmp_path)}
    assert "lies partly here and partly in p2" in found["p1"]
    assert "lies partly here and partly in p1" in found["p2"]
    assert found["p3"] == ""


def test_a_named_series_is_sought_in_the_whole_study(tmp_path):
    write_dicom(tmp_path / "arterial", series="a", description="arterial")
    write_dicom(tmp_path / "venous", series="v", description="venous")
    assert list(names(tmp_path)) == ["arterial", "venous"]
    (case,) = find_inputs(tmp_path, series="venous", allow="missing-slices, uneven-spacing")
    assert case == {
        "image": str(tmp_path),
        "case": tmp_path.name,
        "series": "venous",
        "allow": ["missing-slices", "uneven-spacing"],
    }


@pytest.mark.parametrize("form", ["plain", "gzipped", "bare", "in subfolders"])
def test_images_beside_slices_are_passed_over(tmp_path, caplog, form):
    write_dicom(tmp_path)
    for path in list(tmp_path.iterdir()):
        if form == "gzipped":
            path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        elif form == "bare":
            ph.strip_preamble(path)
            path.rename(path.with_suffix(""))
    if form == "in subfolders":
        (tmp_path / "all").mkdir()
        for path in tmp_path.glob("*.dcm"):
            path.rename(tmp_path / "all" / path.name)
        spread(tmp_path / "all", tmp_path / "part1", tmp_path / "part2")
    for name in ("preview.png", "ct.nii.gz"):
        (tmp_path / ("part1" if form == "in subfolders" else ".") / name).touch()
    assert names(tmp_path) == {tmp_path.name: str(tmp_path)}
    if form != "in subfolders":
        assert "2 image file(s) beside its slices are ignored, such as ct.nii.gz" in caplog.text
    assert read_header(tmp_path).shape == (14, 12, 10)


def test_a_stray_dicom_file_does_not_hide_a_cohort(tmp_path):
    write_dicom(tmp_path)
    for number in range(11):
        (tmp_path / f"{number}.nii.gz").touch()
    with pytest.raises(InputError, match=r"11 image files \(such as 0\.nii\.gz\) and 10 DICOM slices"):
        find_inputs(tmp_path)


def test_localizers_of_a_study_in_a_folder_of_their_own(tmp_path, caplog):
    write_dicom(tmp_path / "ct")
    scout = ph.changed(
        ph.Phantom(shape=(14, 12, 10)).slices(), None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )[:2]
    scout = ph.changed(scout, None, SeriesInstanceUID="1.2.3.99")
    study = pydicom.dcmread(next((tmp_path / "ct").iterdir())).StudyInstanceUID
    ph.write_series(tmp_path / "scout", ph.changed(scout, None, StudyInstanceUID=study))
    assert list(names(tmp_path)) == ["ct"]
    assert "scout: ignored, it holds only localizers" in caplog.text
    (tmp_path / "scout" / "lost.dcm").symlink_to("not-fetched")
    assert list(names(tmp_path)) == ["ct", "scout"], "what is not there may be a CT"
    (tmp_path / "scout" / "lost.dcm").unlink()
    (tmp_path / "scout" / "ct.nii.gz").touch()
    assert list(names(tmp_path)) == ["ct", "scout"], "an image is not hidden by the localizers beside it"
    (tmp_path / "scout" / "ct.nii.gz").unlink()
    ph.write_series(
        tmp_path / "p2", ph.changed(scout, None, StudyInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3.98")
    )
    assert list(names(tmp_path)) == ["ct", "p2"], "a patient whose CT is not there is a case, which fails"


def test_results_inside_the_input_are_no_cases(tmp_path):
    write_dicom(tmp_path / "s")
    out = tmp_path / "results"
    out.mkdir()
    (out / "s.nii.gz").touch()
    assert list(names(tmp_path, output=out)) == ["s"]
    assert list(names(tmp_path)) == ["results", "s"]


def test_a_loop_of_links_ends(tmp_path):
    write_dicom(tmp_path / "s")
    (tmp_path / "s" / "again").symlink_to(tmp_path / "s")
    assert list(names(tmp_path)) == ["s"]


def test_a_link_is_called_by_its_own_name(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "sha256-77de.nii.gz").touch()
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "patient7.nii.gz").symlink_to(tmp_path / "store" / "sha256-77de.nii.gz")
    assert list(names(tmp_path / "input")) == ["patient7"]
    assert case_id(tmp_path / "input" / "patient7.nii.gz") == "patient7"


@pytest.mark.parametrize("path", [None, ""])
def test_no_input_says_how_to_name_one(path):
    with pytest.raises(InputError, match="--input FILE_OR_DICOM_FOLDER"):
        find_inputs(path)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="absent does not exist"):
        find_inputs(tmp_path / "absent")
    with pytest.raises(InputError, match="is empty"):
        find_inputs(tmp_path)
    for file in ("a.nii.gz", "A.nrrd"):
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=r"have the same case id 'A'"):
        find_inputs(tmp_path)


def test_a_dataset_brings_labels_and_splits(tmp_path):
    write_dataset(tmp_path, training=2, validation=1)
    for path in (tmp_path, tmp_path / "dataset.json"):
        found = find_inputs(path)
        assert [case["case"] for case in found] == ["ct0", "ct1", "ct2"]
        assert all(case["label"].endswith(f"labelsTr/{case['case']}.nii.gz") for case in found)
    assert list(names(tmp_path, split="validation")) == ["ct2"]
    with pytest.raises(InputError, match="no cases in its test split"):
        find_inputs(tmp_path, split="test")
    with pytest.raises(InputError, match="no split 'val'"):
        find_inputs(tmp_path, split="val")
    with pytest.raises(InputError, match=r"is not a dataset, so it has no split"):
        find_inputs(tmp_path / "imagesTr", split="test")


def test_a_single_case_is_no_reason_to_refuse_a_dataset(tmp_path):
    write_dataset(tmp_path, training=1, validation=0)
    content = json.loads((tmp_path / "dataset.json").read_text())
    del content["validation"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert list(names(tmp_path)) == ["ct0"]


def test_a_broken_description_is_said(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        find_inputs(tmp_path)


def test_labels_of_other_classes_are_not_used(tmp_path, caplog):
    write_dataset(tmp_path)
    same = {value: NAMES[value] for value in range(3)}
    assert all("label" in case for case in find_inputs(tmp_path, labels=same))
    assert not caplog.records
    assert not any("label" in case for case in find_inputs(tmp_path, labels={**same, 2: "spleen"}))
    assert "its labels are not used" in caplog.text


def test_a_damaged_slice_is_left_to_the_reader(tmp_path):
    write_dicom(tmp_path / "s1")
    write_dicom(tmp_path / "s2", series="other")
    first = min((tmp_path / "s1").iterdir())
    first.write_bytes(first.read_bytes()[:200])
    assert list(names(tmp_path)) == ["s1", "s2"]


def test_the_cohort_needs_no_reading_of_pixels(tmp_path):
    write_ct(tmp_path, "a")
    (tmp_path / "imagesTr" / "a.nii.gz").write_bytes(np.random.default_rng(0).bytes(99))
    assert list(names(tmp_path / "imagesTr")) == ["a"]


def test_a_series_in_several_subfolders_swallows_no_other_case(tmp_path):
    write_dicom(tmp_path / "all")
    spread(tmp_path / "all", tmp_path / "p1", tmp_path / "p2")
    (tmp_path / "p3").mkdir()
    (tmp_path / "p3" / "ct.nii.gz").touch()
    assert list(names(tmp_path)) == ["p1", "p2", "p3"]


def test_the_viewer_on_a_disc_is_no_case(tmp_path):
    write_dicom(tmp_path / "DICOM" / "PAT0" / "ST0" / "SE0")
    (tmp_path / "VIEWER").mkdir()
    (tmp_path / "VIEWER" / "viewer.exe").write_bytes(b"MZ" * 200)
    assert list(names(tmp_path)) == ["DICOM", "VIEWER"]  # a cohort: it may be a case that is damaged
    (tmp_path / "DICOMDIR").touch()
    assert list(names(tmp_path)) == ["DICOM"]


def test_an_unknown_irregularity_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"--allow missing-slice: not known; .* missing-slices, uneven"):
        find_inputs(tmp_path, allow=["missing-slice"])


def test_each_slice_is_parsed_once_from_the_search_to_the_image(tmp_path):
    for name in ("p1", "p2"):
        write_dicom(tmp_path / "in" / name, series=name)
    aged(tmp_path / "in")
    with opened_below(tmp_path / "in") as opened:
        found = find_inputs(tmp_path / "in")
        assert [case["case"] for case in found] == ["p1", "p2"]
        for case in found:
            read_header(case["image"])
        assert set(opened.values()) == {1}
        for case in found:
            read_image(case["image"])
    assert len(opened) == 20
    assert set(opened.values()) == {2}


# -- several channels ----------------------------------------------------------------------------------------


def test_files_of_one_channel_are_put_together_for_a_model_of_several(tmp_path):
    for case in "ab":
        for channel in range(2):
            write(tmp_path / "flat" / f"{case}_{channel:04d}.nii.gz")
            write(tmp_path / "nested" / f"patient {case}" / f"x_{channel:04d}.nii.gz")
    assert list(names(tmp_path / "flat")) == ["a_0000", "a_0001", "b_0000", "b_0001"]
    flat = names(tmp_path / "flat", channels=2)
    assert list(flat) == ["a", "b"]
    assert flat["b"] == [str(tmp_path / "flat" / f"b_{channel:04d}.nii.gz") for channel in range(2)]
    assert list(names(tmp_path / "nested", channels=2)) == ["patient a", "patient b"]
    (tmp_path / "flat" / "b_0001.nii.gz").unlink()
    a, b = find_inputs(tmp_path / "flat", channels=2)
    assert "problem" not in a
    assert "b_0000.nii.gz: this case has files of the channels 0000, and needs one each of" in b["problem"]


def test_several_files_are_one_case(tmp_path):
    paths = [write(tmp_path / f"{name}.nii.gz") for name in ("a_0000", "t1", "t2")]
    assert names(paths) == {"a": [str(path) for path in paths]}
    assert names(paths[1:]) == {"t1": [str(path) for path in paths[1:]]}
    assert names(paths[1:2]) == {"t1": str(paths[1])}
    with pytest.raises(InputError, match=r"absent\.nii\.gz does not exist"):
        find_inputs([paths[0], tmp_path / "absent.nii.gz"])
    with pytest.raises(InputError, match="so it has no split 'test'"):
        find_inputs(paths, split="test")


def test_anonymous_cases_are_numbers(tmp_path):
    for name in ("doe", "adams"):
        nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = find_inputs(tmp_path, anonymous=True)
    assert [(case["case"], Path(case["image"]).name) for case in found] == [
        ("case001", "adams.nii.gz"),
        ("case002", "doe.nii.gz"),
    ]
