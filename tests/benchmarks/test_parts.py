"""Commands within a time limit: whatever happens to one, the others run and nothing measured is lost."""

import os
import re
import signal
import subprocess
import sys

import pytest

from benchmarks.parts import GRACE, Part, outcome, run_all, summarise
from tests.waiting import PATIENCE, wait_for


def part(name, code, least=0.0, limit=PATIENCE):
    return Part(name, [sys.executable, "-c", code], least, limit)


GOOD = part("good", "print('RESULT steps ours=2 peer=4 ratio=0.5')")
BAD = part("bad", "print('RESULT half ours=1 peer=1 ratio=1'); raise SystemExit('no memory')")
ENDLESS = part("slow", "import time; print('RESULT early ours=1 peer=1 ratio=1'); time.sleep(10**6)")
LATE = part("late", "print('never')", least=10 * PATIENCE)


def test_each_part_has_its_file_and_its_line(tmp_path, capfd):
    # The endless part prints within its limit, which is raised for a machine on which Python starts slowly.
    limit, printed = 1, []
    while not printed:
        limit *= 2
        parts = [BAD, ENDLESS._replace(limit=limit), GOOD, LATE]
        assert run_all(parts, [p.name for p in parts], tmp_path, 5 * PATIENCE) == 3
        printed = outcome(tmp_path / "slow.txt").results
    assert outcome(tmp_path / "good.txt")[::2] == ("0", ["RESULT steps ours=2 peer=4 ratio=0.5"])
    assert outcome(tmp_path / "bad.txt").exit == "1"
    assert "no memory" in (tmp_path / "bad.txt").read_text()
    assert outcome(tmp_path / "slow.txt").exit.startswith("stopped at its limit")
    summary = (tmp_path / "summary.md").read_text()
    assert [line.split(" | ")[2] for line in summary.splitlines()[2:6]] == [
        "1",
        f"stopped at its limit of {limit} s",
        "0",
        "not run",
    ]
    for line in ("RESULT half ours=1", "RESULT early ours=1", "RESULT steps ours=2"):
        assert line in summary
    assert "To go on: `--only bad slow late`" in summary
    assert "[bad] no memory" in capfd.readouterr().out


def test_a_second_call_goes_on(tmp_path):
    parts = [GOOD, BAD]
    run_all(parts, ["good"], tmp_path, 5 * PATIENCE)
    assert outcome(tmp_path / "bad.txt").exit == "not run"
    fixed = [GOOD, part("bad", "print('RESULT half ours=1 peer=1 ratio=1')")]
    assert run_all(fixed, ["bad"], tmp_path, 5 * PATIENCE) == 0
    summary = (tmp_path / "summary.md").read_text()
    assert "RESULT steps" in summary
    assert "RESULT half" in summary
    assert "To go on" not in summary


def test_no_part_outlives_the_time_of_all(tmp_path):
    assert run_all([ENDLESS], ["slow"], tmp_path, GRACE + 2) == 1
    assert re.search("stopped at its limit of [012] s", (tmp_path / "summary.md").read_text())


RUNNER = """
import sys
from pathlib import Path
from benchmarks.parts import Part, run_all
code = "import os, time; print('RESULT a ours=1 peer=1 ratio=1'); print('PID', os.getpid()); time.sleep(10**6)"
run_all([Part("long", [sys.executable, "-c", code], 0, 10**6)], ["long"], Path(sys.argv[1]), 10**6)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_printed_is_there_after_a_kill(tmp_path, repository, number):
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)], cwd=repository)
    path = tmp_path / "long.txt"
    found = wait_for(
        lambda: path.is_file() and re.search(r"^PID (\d+)$", path.read_text(), re.MULTILINE), runner
    )
    child = int(found[1])
    runner.send_signal(number)
    runner.wait()
    try:
        assert outcome(path).results == ["RESULT a ours=1 peer=1 ratio=1"]
        if number == signal.SIGTERM:
            assert outcome(path).exit == "interrupted"
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
        else:
            assert outcome(path).exit == "running or killed"
            assert "running or killed" in summarise([Part("long", [], 0, 0)], tmp_path)
    finally:
        if number == signal.SIGKILL:
            os.killpg(child, signal.SIGKILL)
