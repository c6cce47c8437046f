"""The Tab key in the shells themselves, with the script of `segbundles completion`, at a terminal of their own."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Workplace
from tests.waiting import wait_for

fcntl, pty, termios = (
    pytest.importorskip(name, reason="needs terminals of POSIX") for name in ("fcntl", "pty", "termios")
)

STARTS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"], "tcsh": ["tcsh", "-f", "-i"]}
# As docs/installation.md says it for each.
LOADS = {
    "bash": "source {folder}/segbundles",
    "zsh": "fpath=({folder} $fpath); autoload -Uz compinit && compinit -u -D",
    "tcsh": "source {folder}/segbundles",
}
FILES = {"bash": "segbundles", "zsh": "_segbundles", "tcsh": "segbundles"}
ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[()=>].?)|[\x00-\x08\r]")
TYPED = {
    "cr": "crossval",
    "train u": "train upernet",
    "predict ct.n": "predict ct.nii.gz",
    "predict CT --overw": "predict CT --overwrite",
    "predict CT --format seg.n": "predict CT --format seg.nrrd",
    "predict CT --bundle up": "predict CT --bundle upernet",
}


@pytest.fixture(scope="module", params=sorted(STARTS))
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Terminal"]:
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    place = Workplace(folder / "place", database=False)
    script = place.run(["-m", "pipelines", "completion", request.param]).stdout
    (folder / FILES[request.param]).write_text(script, encoding="utf-8")
    (folder / "ct.nii.gz").touch()
    with terminal(request.param, folder) as found:
        yield found


class Terminal:
    """A shell at a terminal; its command `segbundles` writes down the words that it is called with."""

    def __init__(self, handle: int, process: subprocess.Popen, folder: Path) -> None:
        self.handle, self.process, self.called = handle, process, folder / "called"
        self.shown = b""
        os.set_blocking(handle, False)

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def shows(self, text: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.shown += os.read(self.handle, 1 << 16)
        return text.encode() in ESCAPES.sub(b"", self.shown)

    def completed(self, begin: str, whole: str) -> str:
        """What is called after a beginning, the Tab key, and Enter as soon as the rest stands there."""
        self.shown = b""
        self.called.unlink(missing_ok=True)
        self.type(f"segbundles {begin}\t")
        wait_for(lambda: self.shows(f"segbundles {whole}"), self.process, said=lambda: repr(self.shown))
        self.type("\n")
        wait_for(self.called.exists, self.process)
        return self.called.read_text(encoding="utf-8").strip()


@contextlib.contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    (folder / "bin").mkdir()
    program = folder / "bin" / "segbundles"
    record = f'#!/bin/sh\necho "$*" > {folder}/part\nmv {folder}/part {folder}/called\n'
    program.write_text(record, encoding="utf-8")
    program.chmod(0o755)
    # tcsh has no line editor at a terminal that is called dumb, and the others draw no escapes at one.
    variables = {"TERM": "xterm" if shell == "tcsh" else "dumb", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    variables["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    handle, end = pty.openpty()
    process = subprocess.Popen(
        STARTS[shell],
        cwd=folder,
        env=variables,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        # Its terminal: tcsh edits no line without one.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    try:
        found = Terminal(handle, process, folder)
        found.type(LOADS[shell].format(folder=folder) + "\nsegbundles ready\n")
        wait_for(lambda: found.shows("") and found.called.exists(), process)
        yield found
    finally:
        process.kill()
        process.wait()
        os.close(handle)


@pytest.mark.parametrize("begin", TYPED)
def test_the_tab_key_completes(shell: Terminal, begin: str) -> None:
    assert shell.completed(begin, TYPED[begin]) == TYPED[begin]
