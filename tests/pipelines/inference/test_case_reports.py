"""The report beside each case: what is done just so is left alone."""

import os

import nibabel as nib
import numpy as np

from pipelines.data.inputs import find_inputs
from pipelines.inference.outputs import UNFINISHED
from pipelines.inference.postprocess import Postprocess
from tests.pipelines.inference.predicted import changed, cohort, report, rows, times
from tests.pipelines.small import write_ct
from tests.pipelines.tiny_model import prediction, read


def test_what_is_done_is_left_alone(tmp_path, capsys):
    data = cohort(tmp_path)
    images, out = tmp_path / "imagesTr", tmp_path / "out"

    def run(**options):
        before = times(out)
        prediction(find_inputs(images), out, **options).run()
        return changed(before, times(out))

    everything = {"a.nii.gz", "b.nii.gz", "c.nii.gz"}
    assert run() == everything
    assert run() == set()
    assert "0 of 3 cases segmented, 3 done before" in capsys.readouterr().out
    os.utime(data[1]["image"])  # another time: perhaps another image
    assert run() == {"b.nii.gz"}
    (out / "a.nii.gz").write_bytes(b"cut")
    assert run() == {"a.nii.gz"}
    (out / "c.nii.gz").unlink()
    assert run() == {"c.nii.gz"}
    assert run(postprocess=Postprocess(fill_holes="all")) == everything
    assert run(postprocess=Postprocess(fill_holes="all")) == set()
    assert run(preview=True, postprocess=Postprocess(fill_holes="all")) == everything
    # Fewer files are asked for: they are there.
    assert run(postprocess=Postprocess(fill_holes="all")) == set()
    assert run(overwrite=True, postprocess=Postprocess(fill_holes="all")) == everything
    assert len(rows(out / "volumes.csv")) == 6


def test_results_without_a_report_are_known_by_the_unfinished_folder(tmp_path):
    """As after kill -9 between the label map and its report."""
    cohort(tmp_path, "ab")
    out = tmp_path / "out"
    prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    (out / "a.json").unlink()
    left = out / UNFINISHED / "a-x1y2z3"
    left.mkdir(parents=True)
    (left / "a_preview.png").write_bytes(b"half")
    prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    assert report(out, "a")["status"] == "done"
    assert not (out / UNFINISHED).exists()


def test_a_pair_of_header_and_voxels_is_one_case_and_both_its_files_count(tmp_path):
    case = write_ct(tmp_path, "a")
    image, folder, out = nib.load(case["image"]), tmp_path / "pairs", tmp_path / "out"
    folder.mkdir()
    values = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Pair(values, image.affine), folder / "a.img")
    for number, given in enumerate((folder, folder / "a.hdr", folder / "a.img")):
        (found,) = find_inputs(given)
        assert found["case"] == "a"
        prediction([found], tmp_path / f"out{number}").run()
        np.testing.assert_array_equal(read(tmp_path / f"out{number}" / "a.nii.gz"), read(case["label"]))
    prediction(find_inputs(folder), out).run()
    first = report(out, "a")["finished"], (out / "a.nii.gz").stat().st_mtime_ns
    prediction(find_inputs(folder), out).run()
    assert (out / "a.nii.gz").stat().st_mtime_ns == first[1], "done before"
    nib.save(nib.Nifti1Pair(np.full_like(values, -1000), image.affine), tmp_path / "b.img")
    os.replace(tmp_path / "b.img", folder / "a.img")
    prediction(find_inputs(folder), out).run()
    assert not read(out / "a.nii.gz").any()
