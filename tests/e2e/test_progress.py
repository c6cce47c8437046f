"""What somebody sees of a command that takes long: lines in a log file, a bar on a terminal."""

import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.utils.progress_times import SECONDS
from tests.e2e.commands import REPOSITORY, Workplace
from tests.pipelines.small import write_ct, write_dataset
from tests.pipelines.tiny_model import write_model

TINY = {
    "epochs": 2,
    "patches_per_epoch": 3,
    "val_interval": 1,
    "patch_size": "[16,16,16]",
    "spacing": "[1.0,1.0,1.0]",
    "precision": "fp32",
    "num_workers": 0,
    "features": "[4,8]",
}
FINISH = r"done at (\d{4}-\d\d-\d\d )?\d\d:\d\d \(in \d+ (s|min|h)"
LINE = r"(step|case|window) \d+ of \d|so far"
SLOW = r"(\d+(\.\d+)?|\d(\.\d)?e-\d+) s per"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def starting(output: str, text: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(text)]


def test_a_training_without_a_terminal_says_lines(place: Workplace) -> None:
    data = write_dataset(place.folder / "data", training=2)
    words = place.training("r2unet", dataset_dir=data, **TINY)
    said = place.run(words, **{SECONDS: "0"}).stdout
    steps = starting(said, "step ")
    assert [line.split(",")[0] for line in steps] == [f"step {n} of 6" for n in range(1, 7)]
    assert all(re.search(SLOW + " step", line) for line in steps)
    assert all(re.search(FINISH, line) for line in steps[:5])
    assert steps[0].endswith(" and 2 validations"), "nobody knows yet how long they take"
    assert "validations" not in steps[3]
    assert len(re.findall(r"^preprocessing case \d of 2, ", said, re.MULTILINE)) == 2
    windows = starting(said, "after step 3 of 6: in validation case 1 of 1: window ")
    assert re.search(SLOW + " window.*, windows " + FINISH, windows[0])
    assert "%|" not in said


@pytest.mark.slow
def test_nothing_is_said_of_what_is_quick(place: Workplace) -> None:
    data = write_dataset(place.folder / "data", training=2)
    words = place.training("r2unet", dataset_dir=data, **TINY)
    # So long that no machine is slow enough.
    result = place.run(words, **{SECONDS: "100000"})
    assert not re.search(LINE, result.stdout + result.stderr)
    wrong = place.run(words, check=False, **{SECONDS: "often"})
    assert wrong.returncode != 0
    assert f"{SECONDS} is 'often'; give the seconds between lines" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_predict_evaluate_and_check_say_lines(place: Workplace) -> None:
    cases = [write_ct(place.folder, f"ct{n}") for n in range(2)]
    images, labels = (str(Path(cases[0][key]).parent) for key in ("image", "label"))
    out = str(place.folder / "out")
    words = ["-m", "pipelines", "predict", images, "-o", out, "--bundle", "bundles/r2unet", "--device", "cpu"]
    words += ["--model", str(write_model(place.folder / "model")), "--precision", "fp32"]
    said = place.run(words, **{SECONDS: "0"}).stdout
    assert [line.split(",")[0] for line in starting(said, "case ")] == ["case 1 of 2", "case 2 of 2"]
    first = starting(said, "in case 1 of 2: window 1 of ")
    assert len(first) == 1
    assert re.search(", windows " + FINISH, first[0])
    assert starting(said, "in case 2 of 2: window 1 of ")
    # Neither sets up a log, and their results may go to another program.
    told = place.run(["-m", "pipelines", "evaluate", out, labels, "--json"], **{SECONDS: "0"})
    assert len(starting(told.stderr, "case 1 of 2, ")) == 1
    assert told.stdout.startswith("{")
    checked = place.run(["-m", "pipelines", "check", images], **{SECONDS: "0"})
    assert len(starting(checked.stderr, "reading case 2 of 2")) == 1


def on_a_terminal(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command on a pseudo terminal; returns its exit status and what one saw."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env={**environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            part = os.read(ours, 65536)
            if not part:
                break
            seen += part
    except OSError:
        # So Linux says that nobody writes any more.
        pass
    finally:
        os.close(ours)
    return process.wait(), seen.decode(errors="replace")


def test_on_a_terminal_there_is_a_bar_and_no_line(place: Workplace) -> None:
    data = write_dataset(place.folder / "data", training=2)
    words = place.training("r2unet", dataset_dir=data, **TINY)
    code, seen = on_a_terminal(words, {**place.environment, SECONDS: "0"})
    assert code == 0, seen[-3000:]
    assert "6/6 [" in seen
    assert re.search(r"\d+(\.\d+)?(s/step|step/s)", seen)
    assert "preprocessing: 100%|" in seen
    assert not re.search(LINE, seen)
    assert "epoch 2/2  loss" in seen
