"""Environments in which the package is installed as a wheel or editable, without the network: fast twins of pip's."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("networks", "transforms", "pipelines", "bundles")


@dataclass
class Installation:
    """An environment with the package.

    Attributes:
        python: its interpreter.
        site: its site-packages.
        home: a working directory that has nothing to do with the repository.
    """

    python: Path
    site: Path
    home: Path

    def run(
        self, *words: object, check: bool = True, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess:
        """Run `python WORDS` in `home`."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        variables.pop("PYTHONPATH", None)
        command = [str(self.python), *map(str, words)]
        done = subprocess.run(
            command, cwd=cwd or self.home, env=variables, capture_output=True, encoding="utf-8"
        )
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done

    def says(self, code: str, *words: object, cwd: Path | None = None) -> str:
        """What a program prints."""
        return self.run("-c", code, *words, cwd=cwd).stdout.strip()


def copy_sources(folder: Path) -> Path:
    """What the package is built from, as a clone has it."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        shutil.copy(REPOSITORY / name, folder)
    for name in FOLDERS:
        written = ("models", "predictions", "evaluation", "crossval") if name == "bundles" else ()
        ignored = shutil.ignore_patterns("__pycache__", *written)
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    return folder


def install(folder: Path, sources: Path, editable: bool = False) -> Installation:
    """An environment that sees the packages of this one, and ours as setuptools builds it from `sources`."""
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths(vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    site = Path(paths["purelib"])
    # A folder in a .pth file is a place to find packages; its own .pth files, of an editable installation, are not read.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    name = "build_editable" if editable else "build_wheel"
    code = f"import sys; from setuptools import build_meta; build_meta.{name}(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=sources, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    home = folder / "home"
    home.mkdir()
    return Installation(Path(paths["scripts"]) / Path(sys.executable).name, site, home)


def write_foreign(folder: Path, name: str = "pipelines") -> Path:
    """A package of another project that has a name of ours; returns where it is."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("whose = 'another project'\n", encoding="utf-8")
    return folder / name
