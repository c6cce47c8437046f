"""The wheel as a user has it: built from a clean clone, installed by pip with everything that it needs, used elsewhere.

`test_installed.py` has what can be shown without the network.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import REPOSITORY, make_dataset
from tests.e2e.installations import FOLDERS, Installation, write_foreign
from tests.e2e.page_commands import page_commands, run_commands
from tests.e2e.test_installed import ONE_MODULE_A_FILE

# pip fetches gigabytes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

TINY = {
    "epochs": 1,
    "patches_per_epoch": 2,
    "patch_size": "[32,32,32]",
    "spacing": "[8.0,8.0,8.0]",
    "features": "[4,8]",
    "num_workers": 0,
    "precision": "fp32",
}


def call(*words: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def environment(folder: Path, *packages: object) -> Path:
    """The folder of the programs of a new environment with packages from PyPI."""
    call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    programs = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
    if packages:
        call(programs / "python", "-m", "pip", "install", "--quiet", *packages, cwd=folder)
    return programs


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "segbundles"
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs a git checkout")
    call("git", "clone", "--quiet", REPOSITORY, folder, cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Source distribution and wheel, the wheel built from the source distribution, by their endings."""
    folder = tmp_path_factory.mktemp("built")
    tools = environment(folder / "tools", "build", "twine")
    call(tools / "python", "-m", "build", "--outdir", folder / "dist", clone, cwd=folder)
    files = sorted((folder / "dist").iterdir())
    said = call(tools / "python", "-m", "twine", "check", "--strict", *files, cwd=folder)
    assert said.count("PASSED") == len(files) == 2
    return {path.suffix: path for path in files}


@pytest.fixture(scope="module")
def installed(
    clone: Path, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installed")
    wheel = f"segbundles[completion] @ {built['.whl'].as_uri()}"
    programs = environment(folder / "env", "--constraint", clone / "constraints.txt", wheel)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    (folder / "home").mkdir()
    yield Installation(programs / "python", site, folder / "home")
    shutil.rmtree(folder / "env")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"), training=2, validation=1)


def segbundles(installed: Installation, *words: object, check: bool = True) -> subprocess.CompletedProcess:
    """The command on PATH, in the working directory of the user."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    variables["PATH"] = os.pathsep.join([str(installed.python.parent), os.environ["PATH"]])
    command = [str(installed.python.with_name("segbundles")), *map(str, words)]
    done = subprocess.run(command, cwd=installed.home, env=variables, capture_output=True, encoding="utf-8")
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


@pytest.fixture(scope="module")
def trained(installed: Installation, dataset: Path) -> Path:
    words = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    done = segbundles(installed, "train", "r2unet", "--dataset_dir", dataset, *words)
    assert f"models and results go to {installed.home / 'bundles' / 'r2unet'}" in done.stderr
    return installed.home / "bundles" / "r2unet" / "models" / "model.pt"


def test_its_metadata(installed: Installation) -> None:
    (information,) = installed.site.glob("segbundles-*.dist-info")
    text = (information / "METADATA").read_text(encoding="utf-8")
    fields = HeaderParser().parsestr(text)
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields.get_all("License-File") == ["LICENSE"]
    assert not [line for line in fields.get_all("Classifier") if line.startswith("License ::")]
    assert set(fields.get_all("Provides-Extra")) >= {"completion", "export", "postgres"}
    # On PyPI nothing lies beside the page.
    description = fields.get_payload()
    assert "# segbundles" in description
    assert "](docs/" not in description
    assert "![" not in description


def test_everything_is_imported_under_both_names(installed: Installation) -> None:
    said = installed.says(
        f"""
import importlib, pkgutil, sys
for name in ("networks", "transforms", "pipelines"):
    short = importlib.import_module(name)
    for found in pkgutil.walk_packages(short.__path__, f"{{name}}."):
        if not found.name.endswith("__main__"):
            one, other = importlib.import_module(found.name), importlib.import_module(f"segbundles.{{found.name}}")
            assert one is other, found.name
    assert set(short.__all__) <= set(dir(short))
{ONE_MODULE_A_FILE}"""
    )
    assert int(said.splitlines()[-1]) > 250


def test_the_command_is_on_the_path(installed: Installation) -> None:
    assert segbundles(installed, "--version").stdout.startswith("segbundles 0.")
    assert segbundles(installed, "--help").stdout.startswith("usage: segbundles")
    assert "unrecognized arguments: --hepl" in segbundles(installed, "--hepl", "sync", check=False).stderr


def test_check_and_training_and_prediction(installed: Installation, dataset: Path, trained: Path) -> None:
    assert "3 cases, 0 refused" in segbundles(installed, "check", dataset).stdout
    assert trained.is_file()
    assert not list((installed.site / "segbundles").rglob("models"))
    ct = dataset / "images" / "validation_0.nii.gz"
    segbundles(installed, "predict", ct, "-o", "predicted", "--bundle", "r2unet", "--precision", "fp32")
    command = '"$1" -m monai.bundle run --config_file $(segbundles bundle r2unet)/inference.json'
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    variables["PATH"] = os.pathsep.join([str(installed.python.parent), os.environ["PATH"]])
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'{command} --input "$2" --output by_monai --precision fp32',
            "sh",
            installed.python,
            ct,
        ],
        cwd=installed.home,
        env=variables,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    label = nib.load(installed.home / "predicted" / "validation_0.nii.gz")
    assert label.shape == nib.load(ct).shape
    other = nib.load(installed.home / "by_monai" / "validation_0.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj), np.asarray(other.dataobj))


def test_the_commands_of_the_page(
    installed: Installation, clone: Path, dataset: Path, tmp_path: Path
) -> None:
    """docs/installation.md, with the wheel that is there; trainings of seconds in place of half an hour."""
    path = os.pathsep.join([str(installed.python.parent), os.environ["PATH"]])
    (build,) = page_commands("installation.md", "With pip", {})
    assert run_commands(build, clone, PATH=path).splitlines()[-1].startswith("segbundles 0.")
    tiny = " ".join(f"--{name} {value}" for name, value in TINY.items())
    ct = dataset / "images" / "validation_0.nii.gz"
    replaced = {"DIR": dataset, "predict CT": f"predict {ct}", "--minutes 30": tiny}
    (block,) = page_commands("installation.md", "The command", replaced)
    train, planned, predict, evaluate = block.splitlines()
    run_commands(train, tmp_path, PATH=path)
    plan = f"segbundles plan {dataset} --minutes 1 --patch_size [32,32,32]"
    run_commands(f"{plan}\n{planned} {tiny} --bundle_root planned", tmp_path, PATH=path)
    run_commands(f"{predict} --precision fp32\n{evaluate} --precision fp32", tmp_path, PATH=path)
    assert (tmp_path / "planned" / "models" / "model.pt").is_file()
    assert (tmp_path / "predictions" / ct.name).is_file()
    assert (tmp_path / "bundles" / "r2unet" / "evaluation" / "metrics.json").is_file()


def test_a_foreign_package_is_in_nobodys_way(
    installed: Installation, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    """`pipelines` of another project in the same site-packages, installed by pip."""
    project = tmp_path / "project"
    write_foreign(project)
    setup = "[metadata]\nname = foreign-pipelines\nversion = 1\n[options]\npackages = pipelines\n"
    (project / "setup.cfg").write_text(setup, encoding="utf-8")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        encoding="utf-8",
    )
    installed.run("-m", "pip", "install", "--quiet", "--no-deps", project)
    try:
        assert installed.says("import pipelines; print(pipelines.whose)") == "another project"
        said = installed.says(
            "import pipelines, segbundles.pipelines as p; from segbundles.networks import R2UNet; import networks; "
            "assert networks.R2UNet is R2UNet; print(pipelines.whose, p.SlidingWindow.__module__)"
        )
        assert said == "another project segbundles.pipelines.inference.sliding_window"
        assert "3 cases, 0 refused" in segbundles(installed, "check", dataset).stdout
        config = Path(segbundles(installed, "bundle", "r2unet").stdout.strip()) / "inference.json"
        ct = dataset / "images" / "validation_0.nii.gz"
        words = ["--config_file", config, "--input", ct, "--output", "beside_foreign", "--precision", "fp32"]
        done = installed.run("-m", "monai.bundle", "run", *words)
        assert "'pipelines' means segbundles.pipelines in this process" in done.stderr
        assert (installed.home / "beside_foreign" / "validation_0.nii.gz").is_file()
    finally:
        installed.run("-m", "pip", "uninstall", "--quiet", "--yes", "foreign-pipelines")


def test_plan_evaluate_compare_and_sync(installed: Installation, dataset: Path, trained: Path) -> None:
    segbundles(installed, "plan", dataset, "--minutes", "1", "--patch_size", "[32,32,32]")
    assert json.loads((installed.home / "plan.json").read_text(encoding="utf-8"))["patch_size"] == [32] * 3
    labels = dataset / "labels"
    segbundles(installed, "evaluate", labels, labels, "-o", "evaluated")
    assert (installed.home / "evaluated" / "report.html").is_file()
    said = segbundles(installed, "compare", "experiment_id = '1'", "--no-log", check=False)
    assert "Traceback" not in said.stderr
    assert segbundles(installed, "sync").returncode == 0
    segbundles(installed, "convert", dataset, "converted")
    assert (installed.home / "converted" / "dataset.json").is_file()


def test_what_leaves_it_has_the_names_of_the_repository(
    installed: Installation, clone: Path, trained: Path, tmp_path: Path
) -> None:
    """The model in MLflow, written from the wheel, holds the code of the clone that the wheel was built from."""
    (model,) = installed.home.glob("mlartifacts/*/artifacts/model")
    files = [path for name in FOLDERS[:3] for path in (clone / name).rglob("*") if path.is_file()]
    names = [path.relative_to(clone) for path in files if path.parent.name != "installed"]
    assert len(names) > 250
    for name in names:
        assert (model / name).read_bytes() == (clone / name).read_bytes(), name
    assert "segbundles" not in (model / "configs" / "inference.json").read_text(encoding="utf-8")
    loads = "loader_module: pipelines.deployment.mlflow_model"
    assert loads in (model / "MLmodel").read_text(encoding="utf-8")
    # From its own root a packaged bundle runs its own code, also where a wheel is installed.
    code = "import pipelines.utils.locks as locks, networks; print(locks.__file__, networks.__file__)"
    for place in installed.says(code, cwd=model).split():
        assert Path(place).is_relative_to(model)
    words = [
        "--config_file",
        "configs/inference.json",
        "--input",
        "absent.nii.gz",
        "--output",
        tmp_path / "o",
    ]
    done = installed.run("-m", "monai.bundle", "run", *words, cwd=model, check=False)
    assert "error: " in done.stderr
    assert "absent.nii.gz" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(installed: Installation, tmp_path: Path) -> None:
    script = tmp_path / "segbundles.bash"
    script.write_text(segbundles(installed, "completion", "bash").stdout, encoding="utf-8")
    ask = f"""
source {script}
COMP_WORDS=({{}}); COMP_CWORD=$(( ${{{{#COMP_WORDS[@]}}}} - 1 ))
$(complete -p segbundles | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
echo "${{{{COMPREPLY[@]}}}}"
"""
    said = {
        words: call("bash", "-c", ask.format(words), cwd=tmp_path).split()
        for words in ("segbundles cr", "segbundles train u", "segbundles predict --over")
    }
    assert said["segbundles cr"] == ["crossval"]
    assert said["segbundles train u"] == ["upernet"]
    assert said["segbundles predict --over"] == ["--overwrite", "--overlap"]
