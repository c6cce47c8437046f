"""The demo's data is made once, whoever starts at the same moment, and whatever the system lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data import demo

PREPARE = """
import os, sys, time
from pathlib import Path
locks, root, log = sys.argv[1:]
sys.modules["fcntl"] = None
if locks == "none":
    del os.lockf
from pipelines.data import demo
def build(folder):
    with open(log, "a", encoding="utf-8") as stream:
        stream.write("built\\n")
    # Without locks both are at it now, and one of them finds the other's work in its place.
    while locks == "none" and Path(log).read_text(encoding="utf-8") != "built\\n" * 2:
        time.sleep(0.01)
    (folder / "dataset.json").write_text("{}", encoding="utf-8")
print(demo._once(Path(root), "dataset.json", build))
"""


@pytest.mark.parametrize(("locks", "times"), [("records", 1), ("none", 2)])
def test_two_first_starts_at_once(tmp_path, locks, times):
    root, log = tmp_path / "data" / "demo", tmp_path / "log"
    command = [sys.executable, "-c", PREPARE, locks, str(root), str(log)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.strip() == str(root)
    assert log.read_text(encoding="utf-8") == "built\n" * times
    assert (root / "dataset.json").read_text(encoding="utf-8") == "{}"
    assert [path.name for path in root.parent.iterdir() if path.is_dir()] == ["demo"], "nothing is left over"


def test_what_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "demo").mkdir()
    with pytest.raises(demo.DemoError, match=r"demo exists but has no dataset\.json; move it away"):
        demo.prepare_demo(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"")
        raise demo.DemoError("pip could not fetch it")

    with pytest.raises(demo.DemoError, match="pip could not"):
        demo._once(tmp_path / "demo", "dataset.json", build)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
