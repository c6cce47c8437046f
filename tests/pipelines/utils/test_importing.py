import gc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.utils.importing import COMMANDS, gc_paused, keep_what_is_there

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(params=COMMANDS)
def command(request, monkeypatch):
    """This process looks like `python -m` of one of the commands."""
    monkeypatch.setattr(
        sys.modules["__main__"], "__spec__", SimpleNamespace(name=request.param), raising=False
    )
    gc.collect()
    yield
    gc.unfreeze()
    gc.enable()


class Node:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self):
        self.me = self


def test_nothing_is_collected_meanwhile_and_what_came_stays(command):
    before, seen = gc.get_freeze_count(), []
    gc.callbacks.append(lambda phase, info: seen.append(phase))
    try:
        with gc_paused():
            nodes = [Node() for _ in range(100_000)]
    finally:
        gc.callbacks.pop()
    assert not seen
    assert gc.isenabled()
    assert gc.get_freeze_count() - before >= len(nodes)


def test_a_collector_that_is_off_stays_off(command):
    gc.disable()
    with gc_paused():
        pass
    assert not gc.isenabled()


def test_an_import_that_fails_leaves_the_collector_running(command):
    with pytest.raises(ModuleNotFoundError), gc_paused():
        import no_such_package  # noqa: F401
    assert gc.isenabled()


def test_what_comes_later_is_collected_as_ever(command):
    keep_what_is_there()
    gc.collect()
    Node()
    assert gc.collect() >= 1


def test_another_program_keeps_its_collector():
    before = gc.get_freeze_count()
    with gc_paused():
        nodes = [Node() for _ in range(10)]
    assert gc.get_freeze_count() == before
    del nodes


ENDING = """
import sys
from types import SimpleNamespace
from pipelines.utils.importing import keep_what_is_there

class Node:
    def __init__(self, name):
        self.me, self.name = self, name
    def __del__(self):
        print(self.name, flush=True)

__spec__ = SimpleNamespace(name=sys.argv[1])
Node("import")
keep_what_is_there()
Node("work")
"""


@pytest.mark.parametrize(
    ("program", "collected"), [("monai.bundle.__main__", {"work"}), ("server", {"import", "work"})]
)
def test_what_the_work_leaves_is_collected_at_the_end(program, collected):
    words = [sys.executable, "-c", ENDING, program]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == collected


def test_a_script_tells_that_it_is_a_command():
    """The script that pip makes of an entry point is no module."""
    code = "import gc, pipelines.utils.importing as i; i.{}; i.keep_what_is_there(); print(gc.get_freeze_count())"
    said = [
        subprocess.run(
            [sys.executable, "-c", code.format(call)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for call in ("COMMANDS", "this_is_a_command()")
    ]
    assert said[0] == "0\n"
    assert int(said[1]) > 1000
