"""The package as it is installed, wheel and editable: one module under both names, commands, nothing shadowed.

`test_wheel.py` has the slow proof, with pip and everything from PyPI.
"""

import pickle
import shutil
import sys
from pathlib import Path

import pytest

from pipelines.deployment.packaging import copy_code
from tests.e2e.installations import FOLDERS, Installation, copy_sources, install, write_foreign

# Each file of ours is one module, however often it was imported, and under whatever name.
ONE_MODULE_A_FILE = """
found = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if name.split(".")[0] in ("segbundles", "networks", "transforms", "pipelines") and file:
        found.setdefault(file, set()).add(id(module))
assert found and all(len(ids) == 1 for ids in found.values()), found
print(len(found))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources") / "segbundles")


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(tmp_path_factory.mktemp("wheel"), sources)


@pytest.fixture(scope="module")
def editable(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(tmp_path_factory.mktemp("editable"), sources, editable=True)


@pytest.fixture(params=["wheel", "editable"])
def installation(request: pytest.FixtureRequest) -> Installation:
    return request.getfixturevalue(request.param)


def test_a_wheel_holds_every_file_below_one_name(wheel: Installation, sources: Path) -> None:
    """Templates, styles and stubs too: pages and lazy names need them at run time. No models."""
    root = wheel.site / "segbundles"
    built = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    built = {name for name in built if "__pycache__" not in name}
    own = "pipelines/deployment/installed/"
    files = [path for name in FOLDERS for path in (sources / name).rglob("*") if path.is_file()]
    names = {path.relative_to(sources).as_posix() for path in files if path.suffix != ".pyc"}
    assert built == {name.removeprefix(own) for name in names}
    tops = {path.name for path in wheel.site.iterdir() if path.name != "__pycache__"}
    (information,) = (name for name in tops if name.endswith(".dist-info"))
    assert tops == {"segbundles", "segbundles.pth", "others.pth", information}
    assert (wheel.site / information / "top_level.txt").read_text().split() == ["segbundles"]


@pytest.mark.parametrize("first", ["pipelines", "segbundles.pipelines", "segbundles"])
def test_both_spellings_are_one_module(installation: Installation, first: str) -> None:
    said = installation.says(f"""
import importlib, sys
importlib.import_module({first!r})
from pipelines.utils.locks import waiting_for
from segbundles.pipelines.utils.locks import waiting_for as same
import segbundles.transforms.errors, transforms.errors, pipelines.metrics.names
import segbundles.pipelines.metrics.names as names, segbundles.pipelines as package
assert waiting_for is same
assert segbundles.transforms is transforms and transforms.errors is segbundles.transforms.errors
assert names is pipelines.metrics.names is package.metrics.names
assert importlib.import_module(names.__spec__.name) is names
for absent in ("pipelines.absent", "segbundles.pipelines.absent", "segbundles.absent", "networksofothers"):
    try:
        importlib.import_module(absent)
    except ModuleNotFoundError as error:
        assert error.name == absent, error
    else:
        raise AssertionError(absent)
{ONE_MODULE_A_FILE}""")
    assert int(said) > 6


def test_what_one_pickles_the_other_reads(
    wheel: Installation, editable: Installation, tmp_path: Path
) -> None:
    write = "import pickle, sys; from {0}transforms.errors import UserError as E; "
    write += "pickle.dump([E, E('so')], open(sys.argv[1], 'wb'))"
    read = "import pickle, sys; import segbundles; kind, error = pickle.load(open(sys.argv[1], 'rb')); "
    read += (
        "from {0}transforms.errors import UserError as E; assert kind is E and type(error) is E; print(error)"
    )
    for writer, reader in ((wheel, editable), (editable, wheel)):
        for one, other in (("", "segbundles."), ("segbundles.", "")):
            writer.says(write.format(one), tmp_path / "error")
            assert reader.says(read.format(other), tmp_path / "error") == "so"
    # Of a checkout that is not installed.
    from transforms.errors import UserError

    (tmp_path / "error").write_bytes(pickle.dumps([UserError, UserError("so")]))
    assert wheel.says(read.format("segbundles."), tmp_path / "error") == "so"


def test_starting_python_loads_nothing_else(wheel: Installation, tmp_path: Path) -> None:
    """The finder is there at each start of Python in the environment."""
    bare = wheel.run("-I", "-S", "-c", "import sys, site, os; print(*sys.modules)").stdout.split()
    loaded = wheel.says("import sys; print(*sys.modules)").split()
    others = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    assert others <= {"segbundles", "__main__", "sitecustomize", "usercustomize"}
    assert set(loaded) - set(bare) <= {"segbundles", "__future__", "encodings.utf_8_sig", "sitecustomize"}


WITH_FOREIGN = "import sys; sys.path.insert(0, sys.argv[1])\n"


def test_a_foreign_package_is_not_shadowed(wheel: Installation, tmp_path: Path) -> None:
    write_foreign(tmp_path)
    for first in ("pipelines", "segbundles.pipelines.utils.locks"):
        said = wheel.says(
            WITH_FOREIGN + f"import importlib; importlib.import_module({first!r})\n"
            "import pipelines, segbundles.pipelines.utils.locks, transforms.errors, segbundles.transforms.errors\n"
            "assert not hasattr(pipelines, 'utils') and transforms is segbundles.transforms\n"
            "print(pipelines.whose, len(segbundles.pipelines.__all__))" + ONE_MODULE_A_FILE,
            tmp_path,
        )
        assert said.startswith("another project ")


def test_a_folder_of_files_is_no_package(wheel: Installation, tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "weights.pt").touch()
    said = wheel.says(
        "import importlib.util as u; print(u.find_spec('networks').origin)", cwd=tmp_path
    )  # its own folder comes first where Python looks
    assert said == str(wheel.site / "segbundles" / "networks" / "__init__.py")


def test_a_claim_takes_the_names_for_a_process(wheel: Installation, tmp_path: Path) -> None:
    place = write_foreign(tmp_path)
    code = WITH_FOREIGN + "import segbundles.claimed, pipelines.utils, segbundles.pipelines\n"
    done = wheel.run(
        "-c", code + "assert pipelines is segbundles.pipelines and segbundles.claimed.CLAIMED", tmp_path
    )
    assert (
        f"'pipelines' means segbundles.pipelines in this process, and not the package at {place}"
        in done.stderr
    )
    # Imported already, it stays what it is.
    done = wheel.run(
        "-c", WITH_FOREIGN + "import pipelines\nimport segbundles.claimed", tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("is a package of another project in this process") == 2  # said, and raised


def test_an_editable_installation_refuses_a_foreign_package(editable: Installation, tmp_path: Path) -> None:
    write_foreign(tmp_path)
    done = editable.run("-c", WITH_FOREIGN + "import segbundles.pipelines", tmp_path, check=False)
    assert "ForeignNameError: segbundles.pipelines is" in done.stderr
    assert "belongs to another package" in done.stderr
    assert editable.says(WITH_FOREIGN + "import segbundles.transforms as t; print(t.__name__)", tmp_path) == (
        "transforms"
    )


def test_the_code_of_a_packaged_bundle_comes_first(wheel: Installation, tmp_path: Path) -> None:
    copy_code(tmp_path)
    said = wheel.says("import pipelines.utils.locks as locks; print(locks.__file__)", cwd=tmp_path)
    assert said == str(tmp_path / "pipelines" / "utils" / "locks.py")


@pytest.mark.parametrize("module", ["segbundles", "pipelines", "segbundles.pipelines"])
def test_the_commands_are_the_same_under_every_name(installation: Installation, module: str) -> None:
    code = installation.site / "segbundles"
    place = code if code.exists() else None
    said = installation.run("-m", module, "--version").stdout
    assert said.startswith("segbundles 0.")
    if place is not None:
        assert said.endswith(f" in {place}\n")
    folder = Path(installation.run("-m", module, "bundle", "r2unet").stdout.strip())
    assert (folder / "inference.json").is_file()
    assert folder.is_absolute()
    assert installation.run("-m", module, "bundle").stdout.split() == ["r2unet", "upernet"]


def test_check_reads_a_dataset_from_any_directory(wheel: Installation, lungs_like: Path) -> None:
    write_foreign(wheel.home)
    try:
        done = wheel.run("-m", "segbundles", "check", lungs_like)
    finally:
        shutil.rmtree(wheel.home / "pipelines")
    assert "5 cases, 0 refused" in done.stdout


def test_the_options_of_train_are_ids_of_its_config(wheel: Installation, tmp_path: Path) -> None:
    """What stands in the command reaches MONAI, whose config is the installed one; nothing is written beside the code."""
    words = ["-m", "segbundles", "train", "r2unet", "--overlay", "demo.json"]
    done = wheel.run(*words, "--nonsense", "1", "--dataset_dir=x", check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"models and results go to {tmp_path / 'bundles' / 'r2unet'}" in done.stderr
    assert "error: the config cannot run: nothing uses 'nonsense'" in done.stderr
    done = wheel.run(*words[:4], "--overlay", "absent.json", check=False)
    assert "there is no config absent.json" in done.stderr
    done = wheel.run(*words[:4], "absent", "--minutes", "1", check=False)
    assert "absent belongs to no option" in done.stderr
    done = wheel.run(*words[:4], "--config_file", "x", check=False)
    assert "--overlay" in done.stderr
    assert not list((wheel.site / "segbundles" / "bundles").rglob("models"))


def test_completion(wheel: Installation) -> None:
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "tcsh"):
        said = wheel.run("-m", "segbundles", "completion", shell).stdout
        assert all(word in said for word in ("segbundles", "predict", "crossval", "upernet"))
        # For tcsh without the dashes, which stand before the list.
        assert "overlap" in said


def test_completion_without_its_package(wheel: Installation) -> None:
    code = "import sys; sys.modules['shtab'] = None; import segbundles.__main__ as m; sys.argv[1:] = ['completion', 'bash']; "
    done = wheel.run("-c", code + "sys.exit(m.main())", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("run: pip install 'segbundles[completion]'")
