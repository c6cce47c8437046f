"""One walk over files for everybody."""

import os

import pytest

from transforms.utils.walk import files_below, leads_nowhere

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")


@pytest.fixture
def tree(tmp_path):
    for name in ("b/z", "b/deep/y", "a", ".hidden", ".dark/x", "b/.dark/w"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    return tmp_path / "tree"


def walk(folder, **options):
    return [path.relative_to(folder).as_posix() for path in files_below(folder, **options)]


def test_files_come_folder_by_folder_and_hidden_ones_last(tree):
    assert walk(tree) == ["a", "b/z", "b/deep/y"]
    assert sorted(walk(tree, hidden=True)) == sorted(
        [".dark/x", ".hidden", "a", "b/.dark/w", "b/deep/y", "b/z"]
    )
    assert walk(tree, without=tree / "b") == ["a"]


def test_linked_folders_count_once_and_under_their_own_names_where_they_have_one(tree, tmp_path):
    (tmp_path / "store" / "s").mkdir(parents=True)
    (tmp_path / "store" / "s" / "1").touch()
    (tree / "A").symlink_to(tree / "b")  # its own name counts though the link's comes first
    (tree / "c").symlink_to(tmp_path / "store")
    (tree / "d").symlink_to(tmp_path / "store" / "s")
    (tmp_path / "store" / "back").symlink_to(tree)
    (tmp_path / "store" / "s" / "round").symlink_to("..")
    assert walk(tree) == ["a", "b/z", "b/deep/y", "c/s/1"]


def test_many_circles_take_no_longer_than_few(tmp_path):
    """Each folder links to all: a walk along every way through them would never end."""
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").touch()
        for other in range(40):
            (tmp_path / str(number) / f"to{other}").symlink_to(tmp_path / str(other))
    assert len(walk(tmp_path / "0")) == 40


def test_links_to_nothing_and_to_themselves_are_files_unless_content_is_wanted(tree):
    (tree / "lost").symlink_to(tree / "absent")
    (tree / "self").symlink_to("self")
    assert leads_nowhere(tree / "lost")
    assert leads_nowhere(tree / "self")
    assert not leads_nowhere(tree / "a")
    assert walk(tree) == ["a", "lost", "self", "b/z", "b/deep/y"]
    assert walk(tree, dangling=False) == ["a", "b/z", "b/deep/y"]


def test_what_is_hidden_is_not_followed_by_links(tree, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1").touch()
    (tree / ".link").symlink_to(tmp_path / "store")
    (tree / ".dark" / "link").symlink_to(tmp_path / "store")
    assert not any("link" in name for name in walk(tree, hidden=True))
    (tree / "link").symlink_to(tree / ".dark")  # a name that is not hidden makes it count, links and all
    assert walk(tree) == ["a", "b/z", "b/deep/y", "link/x", "link/link/1"]
    assert {"link/x", "link/link/1"} <= set(walk(tree, hidden=True))


def test_pipes_are_passed_over(tree):
    os.mkfifo(tree / "pipe")
    (tree / "to_pipe").symlink_to(tree / "pipe")
    assert walk(tree) == ["a", "b/z", "b/deep/y"]


def test_a_folder_that_cannot_be_listed_is_an_error_or_told(tree):
    with pytest.raises(FileNotFoundError):
        walk(tree / "absent")
    errors = []
    assert walk(tree / "absent", onerror=errors.append) == []
    assert [os.fspath(error.filename) for error in errors] == [str(tree / "absent")]
