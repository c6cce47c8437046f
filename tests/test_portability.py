"""What has to hold on Windows and macOS too, told on any system; `make lint` also type-checks for both."""

import ast
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.utils.file_names import is_portable
from tests.conftest import REPOSITORY

PACKAGES = ("networks", "transforms", "pipelines")
WITHOUT_POSIX = REPOSITORY / "tests" / "without_posix"

IMPORT = """
import importlib, os, signal, sys
import sitecustomize
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert sys.modules[name].__file__.startswith(sys.path[1]), sys.modules[name].__file__
assert all(sys.modules[name] is None for name in sitecustomize.MODULES)
assert not [name for name in sitecustomize.OS if hasattr(os, name)]
assert not [name for name in sitecustomize.SIGNAL if hasattr(signal, name)]
"""


def modules() -> list[str]:
    """Every module of ours; pipelines.__main__ too, which does nothing unless it is run.

    Not the package `segbundles`, which `e2e/test_installed.py` imports by its own name.
    """
    return [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages([str(REPOSITORY / package)], f"{package}.")
        if not module.name.startswith("pipelines.deployment.installed")
    ]


def test_every_module_can_be_imported_without_posix(tmp_path: Path) -> None:
    names = modules()
    assert len(names) > 100
    path = os.pathsep.join([str(REPOSITORY), str(WITHOUT_POSIX)])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT, *names],
        env={**os.environ, "PYTHONPATH": path, "USERNAME": "somebody"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr


def sources() -> Iterator[Path]:
    """Our own files; tests themselves may rely on the machines that run them."""
    for folder in (*PACKAGES, "benchmarks", "docs", "tests"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if not path.name.startswith("test_"):
                yield path


def of_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file, or reads what a process says, in whatever encoding the system has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) < 2
    if name in ("run", "Popen", "check_output", "check_call"):
        return bool({"text", "universal_newlines"} & set(keywords))
    if name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"):
        return "mode" in keywords and "b" not in ast.unparse(keywords["mode"])
    if name not in ("open", "fdopen", "TextIOWrapper", "FileHandler"):
        return False
    # Functions of this name that open something else, and methods without a file.
    if isinstance(owner, ast.Name) and owner.id in ("blosc2", "os", "Image", "self", "delivery", "zipfile"):
        return name == "fdopen"
    modes = [*call.args, *([keywords["mode"]] if "mode" in keywords else [])]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return not any("b" in text and set(text) <= set("rwaxb+") for text in texts)


def test_every_text_file_says_its_encoding() -> None:
    """The system's own is cp1252 on most Windows machines, where a class called 右肺 cannot be written or read."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}: {ast.unparse(call)[:100]}"
        for path in sources()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and of_text_without_encoding(call)
    ]
    assert not found, "\n".join(['say encoding="utf-8" there:', *found])


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(name)", True),
        ("open(name, 'a')", True),
        ("open(name, mode='rb')", False),
        ("(folder / 'x').open('wb')", False),
        ("path.open('w', newline='')", True),
        ("path.open('b.txt')", True),
        ("os.open(name, os.O_RDONLY)", False),
        ("os.fdopen(handle)", True),
        ("Image.open(path)", False),
        ("subprocess.run(words, capture_output=True)", False),
        ("subprocess.run(words, text=True)", True),
        ("tempfile.TemporaryFile(dir=root)", False),
        ("tempfile.NamedTemporaryFile(mode='w')", True),
    ],
)
def test_the_rule_about_encodings_sees_what_it_is_about(code: str, wrong: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert of_text_without_encoding(call) is wrong


def test_bundles_are_ascii() -> None:
    """MONAI and logging read them in the system's own encoding."""
    files = [path for path in (REPOSITORY / "bundles").glob("*/*") if path.suffix in (".json", ".conf")]
    assert len(files) > 10
    for path in files:
        assert path.read_bytes().isascii(), path


def test_the_repositorys_files_can_lie_on_every_system() -> None:
    paths = [
        path.relative_to(REPOSITORY)
        for folder in (*PACKAGES, "benchmarks", "bundles", "docs", "tests")
        for path in (REPOSITORY / folder).rglob("*")
    ]
    assert [path for path in paths if not is_portable(path.name.lstrip("."))] == []
    assert len({str(path).casefold() for path in paths}) == len(paths)
