"""What setup.cfg cannot say: packages lie below `segbundles` in a wheel, and at the root in the repository."""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAMES = ("networks", "pipelines", "transforms")
# The code of the package `segbundles` itself.
INSTALLED = "pipelines/deployment/installed"
# The commands by which pip and setuptools install the repository instead of a copy.
EDITABLE = {"editable_wheel", "develop"} & set(sys.argv)
# Where the files of README are on the web, with a slash at the end; None while they are nowhere.
HOME = None
PICTURE = re.compile(r"^!\[.*?\]\((?!https?:)[^)]*\)\n(\n\*.*?\*\n)?\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


class BuildPackages(build_py):
    """Writes the files of a wheel, where our packages import each other by their long names."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            names = runpy.run_path("pipelines/utils/import_names.py")
            for path in self._written():
                text = path.read_text(encoding="utf-8")
                path.write_text(names["with_long_names"](text, path.name), encoding="utf-8", newline="\n")
            # At each start of Python: the short names are found too, where nobody else has them.
            Path(self.build_lib, "segbundles.pth").write_text("import segbundles\n", encoding="utf-8")

    def _written(self) -> Iterator[Path]:
        root = Path(self.build_lib, "segbundles")
        for name in (*NAMES, "bundles"):
            for path in sorted((root / name).rglob("*")):
                if path.suffix in (".py", ".pyi", ".json", ".conf"):
                    yield path

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, "segbundles.pth"))]


def readme() -> str:
    """README.md for PyPI, where links between files lead nowhere: they lead to `HOME`, or are text."""
    text = Path("README.md").read_text(encoding="utf-8")
    if HOME is not None:
        return LINK.sub(rf"\1[\2]({HOME}\3)", text)
    return LINK.sub(r"\2", PICTURE.sub("", text))


packages = [
    name
    for name in find_packages(include=[pattern for name in NAMES for pattern in (name, f"{name}.*")])
    if name.replace(".", "/") != INSTALLED
]
if EDITABLE:
    layout = {"segbundles": INSTALLED}
    packages = ["segbundles", *packages]
else:
    layout = {"segbundles": INSTALLED, **{f"segbundles.{name}": name for name in (*NAMES, "bundles")}}
    packages = ["segbundles", "segbundles.bundles", *(f"segbundles.{name}" for name in packages)]

setup(
    packages=packages,
    package_dir=layout,
    cmdclass={"build_py": BuildPackages},
    long_description=readme(),
    long_description_content_type="text/markdown",
)
