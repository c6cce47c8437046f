"""An unfinished training of version 0.1 goes on, and its state never passes for a model."""

import shutil

import pytest

from pipelines.training.checkpoints import Checkpoints, load_state
from pipelines.training.state_files import EARLIER, LAST, STATES, rename_old, state_file


@pytest.fixture
def old(straight, tmp_path):
    """The folder of a training as version 0.1 left it."""
    folder = shutil.copytree(straight, tmp_path / "models")
    for name in (LAST, EARLIER):
        (folder / name).rename((folder / name).with_suffix(".pt"))
    return folder


def test_a_state_under_its_old_name_is_found_and_renamed(old, straight):
    expected = load_state(straight / LAST)["epoch"]
    assert Checkpoints(old).latest()["epoch"] == expected
    Checkpoints(old).repair()
    assert sorted(path.name for path in old.glob("*.pt")) == ["model.pt"]
    assert load_state(old / LAST)["epoch"] == expected
    assert (old / EARLIER).is_file()


def test_a_newer_state_is_not_replaced_by_one_under_an_old_name(tmp_path):
    (tmp_path / LAST).write_bytes(b"new")
    (tmp_path / "last.pt").write_bytes(b"old")
    assert state_file(tmp_path, LAST) == tmp_path / LAST
    rename_old(tmp_path)
    assert (tmp_path / LAST).read_bytes() == b"new"
    assert (tmp_path / "last.pt").read_bytes() == b"old"


def test_nothing_beside_a_model_has_a_shorter_name_that_a_program_takes_for_a_model():
    assert not [name for name in STATES if name.endswith(".pt")]
