"""Cases that only one of several predictions into a folder works on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.inference.claims import Claims
from pipelines.inference.prediction import PredictionError
from tests.pipelines.small import write_ct
from tests.pipelines.tiny_model import prediction, read
from transforms.io.readers import read_label

HOLD = """
import sys
from pipelines.inference.claims import Claims
claims = Claims(sys.argv[1])
for case in sys.argv[2:]:
    assert claims.take(case)
print("held", flush=True)
sys.stdin.read()
"""


def holding(folder: Path, *cases: str) -> subprocess.Popen:
    """Another process that has claimed cases, until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *cases],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_case_is_claimed_by_one_process(tmp_path):
    folder = tmp_path / "claims"
    other = holding(folder, "a")
    mine = Claims(folder)
    assert not mine.take("a")
    assert mine.take("b")
    assert mine.take("b")
    other.kill()
    other.wait()
    mine.wait("a")
    mine.release("a")
    mine.release("b")
    assert not folder.exists()
    mine.release("b")


def test_a_claim_on_a_file_that_was_removed_meanwhile_is_none(tmp_path):
    first, second = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert first.take("a")
    assert first._locks["a"].is_current()
    first._locks["a"].path.unlink()
    assert not first._locks["a"].is_current()
    first.release("a")
    assert second.take("a")
    second.release("a")


def test_a_case_of_a_prediction_that_dies_is_done_by_the_other(tmp_path, capsys):
    cases = [write_ct(tmp_path, f"ct{index}") for index in range(3)]
    out = tmp_path / "out"
    other = holding(out / ".unfinished" / "claims", "ct1")
    mine = prediction(cases, out)
    waiting = mine.claims.wait

    def wait(case):
        if case == "ct1":
            assert sorted(path.stem for path in out.glob("ct?.json")) == ["ct0", "ct2"]
            other.kill()
            other.wait()
        waiting(case)

    mine.claims.wait = wait
    mine.run()
    for case in cases:
        np.testing.assert_array_equal(read(out / f"{case['case']}.nii.gz"), read_label(case["label"])[0])
    assert "3 of 3 cases segmented" in capsys.readouterr().out
    assert not (out / ".unfinished").exists()


def test_what_another_prediction_did_meanwhile_is_not_done_again(tmp_path):
    cases = [write_ct(tmp_path, f"ct{index}") for index in range(3)]
    out = tmp_path / "out"
    for overwrite in (False, True):
        mine, other = (prediction(cases, out, overwrite=overwrite) for _ in range(2))
        plan = mine._plan

        def planned(data, plan=plan, other=other):
            todo = plan(data)
            other.run()
            return todo

        mine._plan = planned
        mine._predict = None  # it would fail here
        assert len(mine.run()) == 3
    assert len(list(out.glob("*.nii.gz"))) == 3


def test_another_model_into_the_same_folder_at_the_same_time_is_told_so(tmp_path):
    cases = [write_ct(tmp_path, "ct0")]
    out = tmp_path / "out"
    mine, other = prediction(cases, out), prediction(cases, out)
    other.settings = {"overlap": 0.75}
    plan = mine._plan

    def planned(data):
        todo = plan(data)
        other.run()
        return todo

    mine._plan = planned
    with pytest.raises(PredictionError, match="another prediction with other settings writes to"):
        mine.run()
