"""What commands say where the terminal's encoding lacks a character, and commands that can be copied."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from pipelines.utils.terminal import quoted, take_every_character

SAY = """
import logging, sys
from tqdm import tqdm
handler = logging.StreamHandler(sys.stdout)  # made before, as MONAI's logging.conf does
from pipelines.utils.terminal import take_every_character
take_every_character()
print("right lung \\u53f3\\u80ba, caf\\xe9, \\udce9")
print("\\u53f3", file=sys.stderr)
tqdm.write("\\u53f3 -> done", file=sys.stdout)
logging.getLogger("a").addHandler(handler)
logging.getLogger("a").warning("\\u53f3 logged")
"""


@pytest.mark.parametrize(
    ("environment", "encoding", "accent"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252", "é"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii", "\\xe9"),
        ({"PYTHONIOENCODING": "shift_jis"}, "shift_jis", "\\xe9"),
        ({"PYTHONIOENCODING": "utf-8"}, "utf-8", "é"),
    ],
)
def test_nothing_ends_by_a_character_and_the_encoding_stays(environment, encoding, accent):
    given = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LC_"))}
    given |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", SAY], env=given | environment, capture_output=True)
    assert result.returncode == 0, result.stderr
    lung = "右肺" if encoding in ("utf-8", "shift_jis") else r"\u53f3\u80ba"
    assert result.stdout.decode(encoding).splitlines() == [
        f"right lung {lung}, caf{accent}, \\udce9",
        f"{lung[: len(lung) // 2]} -> done",
        f"{lung[: len(lung) // 2]} logged",
    ]
    assert result.stderr.decode(encoding).splitlines() == [lung[: len(lung) // 2]]


def test_streams_of_other_kinds_are_left_alone(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    take_every_character()
    print("右")
    assert text.getvalue() == "右\n"


@pytest.mark.parametrize(
    ("word", "windows"),
    [
        ("bundles/r2unet", "bundles/r2unet"),
        ("my bundle", '"my bundle"'),
        ("it's", "it's"),
        ('a"b', 'a\\"b'),
        ("C:\\data\\CT", "C:\\data\\CT"),
    ],
)
def test_a_word_is_quoted_for_the_shell_at_hand(word, windows, monkeypatch):
    assert shlex.split(quoted(word)) == [word]
    monkeypatch.setattr(os, "name", "nt")
    said = quoted(word)
    monkeypatch.undo()
    assert said == windows
