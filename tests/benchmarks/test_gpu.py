"""The call that measures everything on a GPU, run without one: its parts exist, take their options and end well."""

import subprocess
import sys

import pytest

from benchmarks.gpu import gpu_tests, parts
from benchmarks.gpu_time import union
from benchmarks.parts import outcome
from tests.waiting import PATIENCE


def measured(folder, repository, *words):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(folder), "--device", "cpu", "--quick"]
    command += ["--minutes", str(PATIENCE / 60)]
    return subprocess.run([*command, *words], cwd=repository, capture_output=True, text=True, check=False)


def test_what_it_was_measured_with(tmp_path, repository):
    done = measured(tmp_path, repository, "--only", "environment")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch" in (tmp_path / "environment.txt").read_text()


def test_a_part_that_does_not_exist_is_refused(tmp_path, repository):
    done = measured(tmp_path, repository, "--only", "trainings")
    assert done.returncode == 2
    assert "no part is called trainings; there are environment, tests, training-3d" in done.stderr


def test_parts_are_named_once_and_fit_their_limits():
    for quick in (False, True):
        found = parts("cuda", quick)
        assert len({part.name for part in found}) == len(found)
        assert all(part.least < part.limit for part in found)


def test_the_tests_for_a_gpu_are_found(repository):
    assert "tests/pipelines/training/test_timing.py" in gpu_tests()
    assert "tests/benchmarks/test_parts.py" not in gpu_tests()


def test_kernels_that_overlap_count_once():
    assert union([(0, 2), (1, 3), (1.5, 2), (5, 6), (6, 7)]) == 5
    assert union([]) == 0


def test_inference_is_measured_without_data(tmp_path, repository):
    done = measured(tmp_path, repository, "--only", "inference-105")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 105 classes fp32 ours " in (tmp_path / "inference-105.txt").read_text()


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_every_part_runs(tmp_path, repository):
    done = measured(tmp_path, repository, "--minutes", str(4 * PATIENCE / 60))
    assert done.returncode == 0, done.stdout + done.stderr
    for part in parts("cpu", True):
        assert outcome(tmp_path / f"{part.name}.txt").exit == "0", part.name
    results = outcome(tmp_path / "inference-14.txt").results
    equal = next(line for line in results if line.startswith("RESULT equal_labels_14_classes_vs_monai"))
    assert float(equal.rsplit("=", 1)[1]) > 0.9999
