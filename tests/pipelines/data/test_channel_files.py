"""Files of one channel each, put together by their numbers."""

from pathlib import Path

import pytest

from pipelines.data.channel_files import by_case, channel_file, missing_channels, numbered
from tests.pipelines.data.dataset_files import write


@pytest.mark.parametrize(
    ("stem", "found"),
    [("a_0000", ("a", 0)), ("a_b_0012", ("a_b", 12)), ("a_001", None), ("_0000", None), ("a0000", None)],
)
def test_a_number_has_four_digits(stem, found):
    assert numbered(stem) == found


def test_the_name_of_a_channel():
    assert channel_file(Path("x/a.nii.gz"), 3) == Path("x/a_0003.nii.gz")


def test_gaps_and_twins_are_named():
    assert missing_channels([1, 0]) == ""
    assert missing_channels([0, 1], 2) == ""
    assert missing_channels([0, 2]).endswith("channels 0000, 0002, and needs one each of 0000 to 0002")
    assert missing_channels([0, 0]).endswith("channels 0000, 0000, and needs one each of 0000 to 0000")
    assert missing_channels([0, 1, 2], 2).endswith("0000, 0001, 0002, and needs one each of 0000 to 0001")


def test_files_are_put_together_for_a_model_of_several_channels(tmp_path):
    files = [write(tmp_path / f"{name}.nii.gz") for name in ("a_0000", "a_0001", "b_0000", "c")]
    assert by_case(files, 1) == [("", (file,), "") for file in files]
    a, b, c = by_case(files, 2)
    assert a == ("a", tuple(files[:2]), "")
    assert b[:2] == ("b", (files[2],))
    assert "needs one each of 0000 to 0001" in b[2]
    assert c == ("", (files[3],), "")


def test_files_that_hold_all_channels_stay_alone(tmp_path):
    files = [write(tmp_path / f"case_{index:04d}.nii.gz", (4, 5, 3, 2)) for index in range(2)]
    assert by_case(files, 2) == [("", (file,), "") for file in files]
