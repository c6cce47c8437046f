"""What a prediction writes, and what it never writes over."""

import errno
import json
import re
import shutil
import tempfile

import pytest

from pipelines.data.inputs import InputError, find_inputs
from pipelines.inference.outputs import UNFINISHED
from pipelines.inference.postprocess import Postprocess
from pipelines.inference.prediction import PredictionError
from tests.file_systems import refuse_folder_sync
from tests.pipelines.inference.predicted import cohort, report
from tests.pipelines.small import NAMES, write_ct
from tests.pipelines.tiny_model import prediction


@pytest.mark.parametrize("linked", [False, True])
def test_an_image_is_never_replaced_by_its_result(tmp_path, linked):
    cohort(tmp_path, "ab")
    images = tmp_path / "imagesTr"
    before = {path: path.read_bytes() for path in images.iterdir()}
    output = images
    if linked:
        output = tmp_path / "elsewhere"
        output.symlink_to(images)
    with pytest.raises(InputError, match=r"would replace the image .*a\.nii\.gz; choose another --output"):
        prediction(find_inputs(images), output, overwrite=True).run()
    assert {path: path.read_bytes() for path in images.iterdir()} == before


@pytest.mark.parametrize("name", ["a.nii.gz", "a.json", "labels.json", "volumes.csv", "metrics.csv"])
def test_files_of_the_user_are_never_replaced(tmp_path, name):
    cohort(tmp_path, "a")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name} exists and was not written by an earlier prediction"):
        prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"
    prediction(find_inputs(tmp_path / "imagesTr"), out, overwrite=True).run()
    assert report(out, "a")["status"] == "done"


def test_an_output_that_cannot_be_written_is_said_before_anything_is_predicted(tmp_path):
    cohort(tmp_path, "a")
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError,
        match=r"the results cannot be written to .*file/out \(Not a directory\); .*, or choose another --output",
    ):
        prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "file" / "out").run()


def test_an_output_that_takes_no_more_is_said_in_a_sentence(tmp_path):
    cohort(tmp_path, "ab")
    out = tmp_path / "out"

    class InTheWay(Postprocess):
        def __call__(self, labels, names):
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)
            (out / UNFINISHED).touch()
            return super().__call__(labels, names)

    with pytest.raises(PredictionError) as failed:
        prediction(find_inputs(tmp_path / "imagesTr"), out, postprocess=InTheWay()).run()
    for what in ("a", "b", "tables over all cases"):
        assert re.search(
            rf"  {what}: the results cannot be written to .*out \(File exists\); .*, and run the same",
            str(failed.value),
        )
    assert "raceback" not in str(failed.value)
    (out / UNFINISHED).unlink()
    prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    assert report(out, "b")["status"] == "done"


def test_an_output_on_a_file_system_that_syncs_no_folders(tmp_path, monkeypatch):
    refused = refuse_folder_sync(monkeypatch, errno.EINVAL)
    cohort(tmp_path)
    written = prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run()
    assert [path.name for path in written] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert all(report(tmp_path / "out", case)["status"] == "done" for case in "abc")
    assert refused


def test_a_name_that_the_output_cannot_have_is_said_in_a_sentence(tmp_path, monkeypatch):
    """As a CIFS or exFAT disk refuses a name with a colon."""
    cohort(tmp_path, ["a", "b:c"])
    real = tempfile.mkdtemp

    def mkdtemp(*arguments, prefix, **options):
        if ":" in prefix:
            raise OSError(errno.EINVAL, "Invalid argument", prefix)
        return real(*arguments, prefix=prefix, **options)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(PredictionError, match=r"b:c: .*\(Invalid argument\); give the input a name that"):
        prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run()
    assert report(tmp_path / "out", "a")["status"] == "done"


def test_results_of_another_image_of_the_same_name_stay(tmp_path):
    cohort(tmp_path / "one", "a")
    cohort(tmp_path / "two", "a")
    out = tmp_path / "out"
    prediction(find_inputs(tmp_path / "one" / "imagesTr"), out).run()
    before = (out / "a.nii.gz").read_bytes()
    with pytest.raises(InputError, match=r"holds the result of .*one.* as case 'a'"):
        prediction(find_inputs(tmp_path / "two" / "imagesTr"), out).run()
    assert (out / "a.nii.gz").read_bytes() == before


def test_one_folder_holds_classes_of_one_kind(tmp_path):
    cohort(tmp_path, "ab")
    out, images = tmp_path / "out", tmp_path / "imagesTr"
    prediction(find_inputs(images / "a.nii.gz"), out).run()
    with pytest.raises(InputError, match=r"results of a model with other classes \(case 'a'\)"):
        prediction(find_inputs(images / "b.nii.gz"), out, classes=4).run()
    prediction(find_inputs(images / "a.nii.gz"), out, classes=4).run()
    assert json.loads((out / "labels.json").read_text())["3"] == NAMES[3]


@pytest.mark.parametrize("name", ["labels", "Index"])
def test_a_case_called_like_a_summary_is_refused(tmp_path, name):
    write_ct(tmp_path, name)
    if name == "labels":
        with pytest.raises(InputError, match=r"'labels' would write labels\.json, and so would the summary"):
            prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run()
    else:
        assert prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run()


def test_two_cases_never_write_one_file(tmp_path):
    cohort(tmp_path, ["a", "a_preview.png"])
    shutil.move(
        tmp_path / "imagesTr" / "a_preview.png.nii.gz", tmp_path / "imagesTr" / "a_probabilities.nii.gz"
    )
    data = find_inputs(tmp_path / "imagesTr")
    with pytest.raises(InputError, match=r"would write a_probabilities\.nii\.gz, and so would the case 'a'"):
        prediction(data, tmp_path / "out", probabilities=True).run()
