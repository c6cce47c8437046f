"""What files can be called on every system."""

import os

import pytest

from pipelines.utils.file_names import is_device, is_portable, readable

DEVICES = ["CON", "con", "nul", "Aux", "prn", "COM1", "lpt9", "com¹", "con.txt", "CON .x", "nul.nii.gz"]


@pytest.mark.parametrize(
    "name", ["a", "case 1", "右肺_003", "a.b-c", "com0", "com10", "console", "x" * 120, "肺" * 66]
)
def test_names_that_every_system_takes(name):
    assert is_portable(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a.", "a ", " a", ".a", "a\x00", "a\nb", "x" * 121, "肺" * 67, "caf\udce9", "\ud83c"]
    + [f"a{letter}b" for letter in '<>:"/\\|?*']
    + DEVICES,
)
def test_names_that_some_system_refuses(name):
    assert not is_portable(name)


@pytest.mark.parametrize("name", DEVICES)
def test_devices(name):
    assert is_device(name)
    assert not is_device(f"_{name}")


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("右肺".encode(), "右肺"),
        (b"caf\xe9", "caf\ufffd"),
        (b"\xe9\xe8", "\ufffd\ufffd"),
        ("🏃".encode()[:2], "\ufffd"),
    ],
)
def test_names_of_any_bytes_are_text(stored, name):
    assert readable(os.fsdecode(stored)) == name
    assert readable(stored.decode("ascii", "surrogateescape")) == name, "as Python has it in the C locale"
    assert readable(name) == name


def test_half_a_character_of_windows_is_text():
    assert readable("a\ud83cb") == "a\ufffdb"
