"""Label maps that are written: once, from the files as they are, and never over something else."""

import numpy as np
import pytest

from pipelines.data.cases import Case
from pipelines.data.conversion.labels import write_label_maps
from tests.pipelines.data.dataset_files import subject, write
from transforms.io.readers import read_label

LABELS = {0: "background", 1: "liver", 2: "spleen"}


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "raw").mkdir()
    made = []
    for name in ("s1", "s2", "s3"):
        folder = subject(tmp_path / "subjects", name)
        case = Case(name, (folder / "ct.nii.gz",), folder / "segmentations", name)
        made.append((case, tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz"))
    return made


def test_a_second_call_writes_what_is_missing_or_of_other_masks(tmp_path, jobs):
    raw = tmp_path / "raw"
    assert write_label_maps(raw, jobs, LABELS) == (3, [])
    jobs[0][1].unlink()
    with (raw / ".label_maps.jsonl").open("a") as stream:
        stream.write('["labelsTr/s2.nii')  # as a process leaves it that is killed
    assert write_label_maps(raw, jobs, LABELS) == (1, [])
    assert write_label_maps(raw, jobs, LABELS) == (0, [])
    before = jobs[1][1].read_bytes()
    subject(tmp_path / "subjects", "s2", ("spleen", "liver"))
    count, problems = write_label_maps(raw, jobs, LABELS)
    assert count == 0
    assert len(problems) == 1
    assert problems[0].startswith("case 's2': label ")
    assert "where something else is" in problems[0]
    assert jobs[1][1].read_bytes() == before


def test_an_equal_file_without_a_note_stays_and_another_one_too(tmp_path, jobs):
    raw = tmp_path / "raw"
    write_label_maps(raw, jobs, LABELS)
    (raw / ".label_maps.jsonl").unlink()
    before = jobs[0][1].stat().st_mtime_ns
    assert write_label_maps(raw, jobs, LABELS) == (0, [])
    assert jobs[0][1].stat().st_mtime_ns == before
    write(jobs[0][1], (6, 5, 4), np.diag([1.5, 1.5, 1.5, 1]))
    _, problems = write_label_maps(raw, jobs, LABELS)
    assert len(problems) == 1


def test_one_bad_case_does_not_stop_the_others(tmp_path, jobs):
    write(tmp_path / "subjects" / "s1" / "segmentations" / "liver.nii.gz", (6, 5, 4), values=3)
    write(tmp_path / "subjects" / "s2" / "ct.nii.gz", (6, 5, 3))
    count, problems = write_label_maps(tmp_path / "raw", jobs, LABELS)
    assert count == 1
    assert "case 's1': label" in problems[0]
    assert "not a binary mask" in problems[0]
    assert "case 's2': label" in problems[1]
    assert "not on the grid of image" in problems[1]
    wanted = read_label(jobs[2][0].label, labels=LABELS).numpy()
    np.testing.assert_array_equal(read_label(jobs[2][1]).numpy(), wanted)
