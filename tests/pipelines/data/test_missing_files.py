"""Entries of a folder that cannot be opened."""

import os

import pytest

from pipelines.data.missing_files import may_be_an_image, reason_lost

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")


def test_a_link_to_nothing_says_where_it_leads(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("elsewhere/a.nii.gz")
    assert reason_lost(tmp_path / "a.nii.gz") == (
        "a link to nothing (elsewhere/a.nii.gz); fetch what belongs there"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.nii.gz").write_bytes(b"")
    assert reason_lost(tmp_path / "a.nii.gz") == ""


def test_what_cannot_be_opened_says_why(tmp_path):
    assert "cannot be opened (Is a directory)" in reason_lost(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", True),
        ("a.dcm", True),
        ("IM0001", True),
        ("study", True),
        ("notes.txt", False),
        ("a.csv", False),
    ],
)
def test_names_that_say_what_is_lost(tmp_path, name, expected):
    (tmp_path / name).symlink_to("nothing")
    assert may_be_an_image(tmp_path / name) == expected


def test_what_can_be_opened_shows_itself_what_it_is(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    assert not may_be_an_image(tmp_path / "a.nii.gz")
