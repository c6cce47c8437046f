"""Every command in a shell block of a page is one that its program takes; on the pages that say so, a test runs it."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

from docs.import_map import REPOSITORY
from pipelines.__main__ import _parser
from pipelines.cli.crossval import without_overrides
from tests.docs.pages import PAGES, name_of, shell_blocks

PROGRAMS = (["python", "-m", "pipelines"], ["segbundles"])
# Where a section's commands are read from the page and run.
RUN_BY = {
    "use_a_model.md": {
        "MONAI Label": "e2e/monai_label.py",
        "MONAI Deploy": "e2e/test_monai_deploy.py",
        "Federated learning": "e2e/test_nvflare.py",
    },
    "node.md": {"": "e2e/test_node.py"},
    "installation.md": {"With pip": "e2e/test_wheel.py", "The command": "e2e/test_wheel.py"},
}
NOT_RUN = {
    "node.md": {
        "Who can call, and who can listen": "the same options are in the tests, with certificates of their own"
    },
    "installation.md": {
        "Docker": "needs its daemon; e2e/test_docker.py runs the steps of the Dockerfile one by one"
    },
}


def commands(page: Path) -> list[list[str]]:
    """The words of each command of ours on a page, without what is left open ("...")."""
    found = []
    for block in (block for blocks in shell_blocks(page).values() for block in blocks):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;()<>")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, "&"]:
                if re.fullmatch(r"[&|;()<>]+", word):
                    found.append(words)
                    words = []
                else:
                    words.append(word)
    ours = [
        words[len(program) :] for words in found for program in PROGRAMS if words[: len(program)] == program
    ]
    return [[word for word in words if word != "..."] for words in ours]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{name_of(p)}-{' '.join(w)}" for p, w in COMMANDS]
)
def test_a_command_takes_what_it_is_given(page: Path, words: list[str]) -> None:
    given, _ = without_overrides([re.sub(r"^\$\w+$", "0", word) for word in words])
    if given == ["--version"]:
        return
    arguments, others = _parser().parse_known_args(given, argparse.Namespace())
    assert not others or arguments.takes_ids


@pytest.mark.parametrize("page", RUN_BY)
def test_every_shell_block_of_a_page_is_read_by_a_test(page: str) -> None:
    sections = set(shell_blocks(REPOSITORY / "docs" / page))
    assert sections == {*RUN_BY[page], *NOT_RUN.get(page, {})}
    for section, name in RUN_BY[page].items():
        text = (REPOSITORY / "tests" / name).read_text(encoding="utf-8")
        assert re.search(rf'page_commands\(\s*"{re.escape(page)}",\s*"{re.escape(section)}"', text), name


def test_what_the_page_installs_is_what_a_bundle_says_it_supports() -> None:
    metadata = json.loads((REPOSITORY / "bundles" / "r2unet" / "metadata.json").read_text(encoding="utf-8"))
    blocks = shell_blocks(REPOSITORY / "docs" / "use_a_model.md")
    text = "".join(block for found in blocks.values() for block in found)
    for name, version in metadata["supported_apps"].items():
        assert re.findall(rf"\b{re.escape(name)}==(\S+)", text) == [version], name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_extras_of_a_page_are_there(page: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    named = re.findall(r"segbundles\[(\w+)\]", page.read_text(encoding="utf-8"))
    assert set(named) <= set(setup["options.extras_require"])
