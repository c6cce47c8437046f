"""Folders for results that cannot be written to: one sentence, before the work whose results would be lost."""

import os
import sys

import pytest

from pipelines.__main__ import main
from pipelines.config.errors import user_error
from pipelines.data.demo import prepare_demo
from pipelines.data.inputs import InputError
from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from pipelines.deployment.packaging import package
from pipelines.inference.outputs import Outputs
from pipelines.tracking.journal import usable_folder
from tests.e2e.commands import Workplace
from tests.pipelines import small
from tests.pipelines.cohort import LABELS, Light, built, make_cases
from transforms.utils.files import FolderError, require_folder

REFUSING = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a file system that refuses folders"
)


@pytest.fixture(
    params=["a file", "below a file", "a link to nothing", pytest.param("refused", marks=REFUSING)]
)
def place(request, tmp_path):
    """A path at which no folder can be made, whoever one is, and the reason that is given."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "absent" / "deep")
    return {
        "a file": (tmp_path / "file", "there is a file of that name"),
        "below a file": (tmp_path / "file" / "folder", "Not a directory"),
        "a link to nothing": (tmp_path / "link", "File exists"),
        "refused": ("/proc/none/folder", "No such file or directory"),
    }[request.param]


def test_the_sentence(place, tmp_path):
    path, reason = place
    with pytest.raises(FolderError) as caught:
        require_folder(path, "the results", "choose another --output")
    assert str(caught.value) == (
        f"the results cannot be written to {path} ({reason}); make sure that files can be written there, "
        "or choose another --output"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    made = require_folder(tmp_path / "a" / "b", "the results", "choose another --output")
    assert made.is_dir()
    assert not any(made.iterdir())


def test_a_patch_store(place, tmp_path):
    data, log = make_cases(tmp_path / "data", 2, shape=(8, 8, 8)), tmp_path / "log"
    with pytest.raises(StoreError) as caught:
        PatchStore(place[0], Light(log), data, LABELS, 0, False).build()
    said = str(caught.value)
    assert said.startswith(f"the patch store cannot be written to {place[0]}")
    assert said.endswith("or name another folder with --store_dir")
    assert "\n" not in said
    assert built(log) == [], "nothing is preprocessed that cannot be kept"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_place_of_the_parameters_folder(tmp_path):
    data = make_cases(tmp_path / "data", 1, shape=(8, 8, 8))
    store = PatchStore(tmp_path / "store", Light(), data, LABELS, 0, False)
    store.root.mkdir()
    store.folder.write_text("")
    with pytest.raises(StoreError, match="there is a file of that name"):
        PatchStore(tmp_path / "store", Light(), data, LABELS, 0, False).build()


def test_a_store_that_is_complete_needs_no_writing(tmp_path, monkeypatch):
    data = make_cases(tmp_path / "data", 1, shape=(8, 8, 8))
    PatchStore(tmp_path / "store", Light(), data, LABELS, 0, False).build()
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: 1 / 0)
    again = PatchStore(tmp_path / "store", Light(), data, LABELS, 0, False).build()
    assert again.case(0).spatial_shape == (8, 8, 8)


def test_a_training_says_it_in_one_sentence(tmp_path):
    dataset = small.write_dataset(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    config = small.config(tmp_path / "run", dataset, train__dataset__root=str(tmp_path / "file"))
    words = ["-m", "monai.bundle", "run", "training", "--config_file", str(config)]
    result = Workplace(tmp_path / "place", database=False).run(words, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (said,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert said.startswith(
        f"error: the patch store cannot be written to {tmp_path / 'file'} (there is a file"
    )


def test_the_models_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    dataset = small.write_dataset(tmp_path / "data")
    config = small.config(tmp_path / "run", dataset)
    (tmp_path / "run" / "models").write_text("mine")
    with pytest.raises(RuntimeError) as caught:
        small.run(config)
    assert str(user_error(caught.value)).startswith(
        f"the training's files cannot be written to {tmp_path / 'run' / 'models'} ("
    )


def test_the_output_of_a_prediction(place):
    with pytest.raises(InputError, match=r"^the results cannot be written to .* choose another --output$"):
        Outputs(place[0], {0: "background", 1: "lung"}).require_room([], False)


def pair(folder):
    case = small.write_ct(folder, "a")
    return [case["label"], case["label"]]


def test_the_output_of_evaluate_before_anything_is_compared(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.evaluation.folder_evaluation.compare", lambda *arguments: 1 / 0)
    words = ["evaluate", *pair(tmp_path / "data"), "-o", str(place[0])]
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code
    assert status == 2
    said = capsys.readouterr().err
    assert str(place[0]) in said
    assert "--output" in said
    assert "Traceback" not in said


def test_the_findings_of_check(place, tmp_path, capsys):
    small.write_ct(tmp_path / "data", "a")
    assert main(["check", str(tmp_path / "data" / "imagesTr"), "--json", f"{place[0]}/findings.json"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: the findings cannot be written to {place[0]}")
    assert said.out == ""


def test_the_files_of_compare(place, tmp_path, capsys):
    words = [
        "compare",
        "a",
        "b",
        "--csv",
        f"{place[0]}/values.csv",
        "--tracking-uri",
        f"sqlite:///{tmp_path}/m.db",
    ]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: the comparison cannot be written to {place[0]}")


def test_a_package_and_the_demo(place, tmp_path, repository):
    with pytest.raises(FolderError, match="the package cannot be written to"):
        package(repository / "bundles" / "r2unet", place[0])
    with pytest.raises(FolderError, match="the demo CT cannot be written to"):
        prepare_demo(f"{place[0]}/demo")


def test_the_spool_goes_elsewhere_with_a_warning(place, monkeypatch, caplog):
    monkeypatch.setenv("SEGBUNDLES_SPOOL", str(place[0]))
    folder = usable_folder("sqlite:///mlflow.db")
    assert folder.name.startswith("mlflow_spool-")
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{place[0]} cannot be written")
