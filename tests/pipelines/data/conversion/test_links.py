"""Links to files in other folders, of the kind that can be made there."""

import os

import pytest

from pipelines.data.conversion.links import kind_of_links, leads_to, link_problems, make_link, path_from


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a" / "scan.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


@pytest.mark.parametrize("refused", [(), ("symlink",), ("symlink", "link")])
def test_the_best_kind_that_works(tmp_path, file, monkeypatch, refused):
    def fail(*_, **__):
        raise OSError("not here")

    for name in refused:
        monkeypatch.setattr(os, name, fail)
    (tmp_path / "b").mkdir()
    kind = kind_of_links(tmp_path / "b", file)
    assert kind == ("symbolic links", "hard links", "paths")[len(refused)]
    assert list((tmp_path / "b").iterdir()) == []
    if kind != "paths":
        make_link(tmp_path / "b" / "c.nii.gz", file, kind)
        assert leads_to(tmp_path / "b" / "c.nii.gz", file)
        assert (tmp_path / "b" / "c.nii.gz").read_bytes() == b"voxels"


def test_links_hold_when_the_folders_move_together(tmp_path, file):
    (tmp_path / "b").mkdir()
    make_link(tmp_path / "b" / "c", file, "symbolic links")
    assert path_from(tmp_path / "b", file) == os.readlink(tmp_path / "b" / "c") == "../a/scan.nii.gz"
    tmp_path.rename(tmp_path.with_name("moved"))
    assert (tmp_path.with_name("moved") / "b" / "c").read_bytes() == b"voxels"


def test_what_stands_there_is_named(tmp_path, file):
    folder = tmp_path / "b"
    wanted = {"right": file, "other": file, "lost": file, "written": None}
    assert link_problems(folder, wanted) == []
    folder.mkdir()
    make_link(folder / "right", file, "hard links")
    (folder / "other").write_bytes(b"voxels")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    (folder / "written").write_bytes(b"")
    (folder / "strange").mkdir()
    (folder / ".DS_Store").write_bytes(b"")
    lost, other, strange = link_problems(folder, wanted)
    assert "lost is there and is not" in lost
    assert "other is there and is not" in other
    assert "strange is no part of the dataset" in strange
    (said,) = link_problems(file, wanted)
    assert "is there and no folder" in said
