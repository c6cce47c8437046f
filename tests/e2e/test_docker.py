"""The steps of the Dockerfile, one by one, in a folder and an environment of their own: no Docker is needed."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Instruction and arguments of each step, with continued lines put together."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield instruction, re.sub(r"\s+", " ", rest.strip())


STEPS = list(steps((REPOSITORY / "Dockerfile").read_text(encoding="utf-8")))


def words_of(rest: str) -> list[str]:
    """The words of an ENTRYPOINT or CMD in its list form."""
    return re.findall(r'"([^"]*)"', rest)


@dataclass
class Image:
    """What the steps make: folders of the image below `root`, programs of its Python in `programs`."""

    root: Path
    context: Path
    programs: Path
    variables: dict[str, str] = field(default_factory=dict)
    place: str = "/"

    def path(self, name: str) -> Path:
        return self.root / os.path.join(self.place, name).lstrip("/")

    def step(self, instruction: str, rest: str, given: dict[str, str]) -> None:
        assert instruction in KNOWN, instruction
        if instruction == "ARG":
            name, _, default = rest.partition("=")
            self.variables[name] = given.get(name, default)
        elif instruction == "ENV":
            for name, value in (pair.split("=", 1) for pair in rest.split()):
                self.variables[name] = value
        elif instruction == "WORKDIR":
            self.place = os.path.join(self.place, rest)
            self.path("").mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            *sources, target = rest.split()
            for name in sources:
                source, end = self.context / name, self.path(target)
                if source.is_dir():
                    shutil.copytree(source, end)
                else:
                    assert target.endswith("/"), "several files are copied into a folder"
                    shutil.copy(source, end)
        elif instruction == "RUN":
            self.run("sh", "-c", rest)

    def run(self, *words: object) -> str:
        variables = {**os.environ, **self.variables, "OMP_NUM_THREADS": "1"}
        variables["PATH"] = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        done = subprocess.run(
            [*map(str, words)], cwd=self.path(""), env=variables, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        return done.stdout


def test_the_steps_are_of_instructions_that_are_known() -> None:
    assert {instruction for instruction, _ in STEPS} == KNOWN
    assert [rest for instruction, rest in STEPS if instruction == "FROM"] == ["python:${PYTHON}-slim"]


def test_what_is_copied_is_there_and_reaches_docker() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [name for instruction, rest in STEPS if instruction == "COPY" for name in rest.split()[:-1]]
    for name in copied:
        assert (REPOSITORY / name).exists(), name
        assert name.split("/")[0] in kept, name
    assert set(kept) == {name.split("/")[0] for name in copied}
    # No model leaves the machine in an image.
    assert fnmatch.fnmatch("bundles/r2unet/models/", "bundles/*/*/")
    assert "bundles/*/*/" in lines


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_steps_make_an_image(lungs_like: Path, tmp_path: Path) -> None:
    """For a CPU, whose torch comes from `SEGBUNDLES_CPU_INDEX` where PyTorch's index is out of reach."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs a git checkout")
    context = tmp_path / "context"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, context], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    programs = Path(sysconfig.get_path("scripts", vars={"base": str(tmp_path / "python")}))
    image = Image(tmp_path / "root", context, programs)
    image.root.mkdir()
    given = {}
    if "SEGBUNDLES_CPU_INDEX" in os.environ:
        given["CPU_INDEX"] = os.environ["SEGBUNDLES_CPU_INDEX"]
    for instruction, rest in STEPS:
        image.step(instruction, rest, given)
    start = {
        instruction: words_of(rest) for instruction, rest in STEPS if instruction in ("ENTRYPOINT", "CMD")
    }
    assert image.place == "/work"
    assert image.run(*start["ENTRYPOINT"], *start["CMD"]).startswith("usage: segbundles")
    assert "5 cases, 0 refused" in image.run(*start["ENTRYPOINT"], "check", lungs_like)
    folder = Path(image.run(*start["ENTRYPOINT"], "bundle", "upernet").strip())
    # Of the image's Python, not of the sources that it was made from.
    assert folder.is_relative_to(tmp_path / "python")
    shutil.rmtree(tmp_path / "python")


def test_cuda_is_a_build_argument() -> None:
    """PyPI's own torch brings CUDA; only the CPU's comes from another index."""
    (line,) = [rest for instruction, rest in STEPS if instruction == "RUN" and "torch" in rest]
    said = {}
    for device in ("cpu", "cuda"):
        environment = {"DEVICE": device, "CPU_INDEX": "https://cpu.invalid", "PATH": os.environ["PATH"]}
        command = f'pip() {{ echo pip "$@"; }}; {line}'
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
        said[device] = done.stdout.strip()
    assert said["cuda"] == "pip install --constraint constraints.txt torch"
    assert said["cpu"] == "pip install --constraint constraints.txt --index-url https://cpu.invalid torch"
