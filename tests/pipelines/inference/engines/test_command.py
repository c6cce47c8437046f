"""`python -m pipelines export` as a user types it."""

import shutil
import zipfile

import pytest
import torch

from pipelines.__main__ import main
from pipelines.inference.ensemble_file import write_ensemble
from tests.pipelines.inference.engines.models import write_r2unet


@pytest.fixture
def bundle(tmp_path):
    """A folder with a trained model where bundles have it."""
    write_r2unet(tmp_path / "bundle" / "models")
    return tmp_path / "bundle"


def export(*words):
    return main(["export", *map(str, words)])


def test_a_bundle_a_model_and_a_package(bundle, tmp_path, capsys):
    """One line for each, with the largest difference."""
    model = bundle / "models" / "model.pt"
    for given, made in (
        (bundle, bundle / "models" / "model.ts"),
        (bundle / "models", bundle / "models" / "model.ts"),
        (model, bundle / "models" / "model.ts"),
    ):
        made.unlink(missing_ok=True)
        assert export(given, "--to", "torchscript") == 0
        said = capsys.readouterr().out
        assert said.startswith(
            f"{made}: takes any batch and size; on a made-up window its logits differ by up to "
        )
        assert "100.000% of the labels are the same" in said
        assert made.is_file()
    archive = shutil.make_archive(str(tmp_path / "packaged"), "zip", tmp_path, "bundle")
    assert export(archive, "--to", "torchscript") == 0
    assert (tmp_path / "packaged.ts").is_file()
    assert export(archive, "--to", "torchscript", "-o", tmp_path / "out") == 0
    assert torch.jit.load(tmp_path / "out" / "packaged.ts")(torch.zeros(2, 1, 8, 12)).shape == (2, 3, 8, 12)


def test_a_format_that_cannot_be_written_does_not_stop_the_others(bundle, capsys):
    if torch.cuda.is_available():
        pytest.skip("is about machines without a GPU")
    assert export(bundle, "--to", "tensorrt", "torchscript") == 1
    said = capsys.readouterr().out
    assert "tensorrt: not written: an engine of TensorRT is built on the GPU that it is for" in said
    assert sorted(path.name for path in (bundle / "models").iterdir()) == [
        "model.json",
        "model.pt",
        "model.ts",
    ]


def test_what_is_no_model_is_said(bundle, tmp_path, capsys):
    assert export(tmp_path, "--to", "onnx") == 2
    assert "there is no trained model in" in capsys.readouterr().err
    write_ensemble(tmp_path, {"members": [], "sha256": [], "postprocessing": {}, "dice": {}})
    assert export(tmp_path, "--to", "onnx") == 2
    assert "is an ensemble; export its models one by one" in capsys.readouterr().err
    (tmp_path / "no.zip").write_bytes(b"PK")
    assert export(tmp_path / "no.zip", "--to", "onnx") == 2
    assert "no.zip is no packaged bundle" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("models/model.pt", b"")
    assert export(tmp_path / "other.zip", "--to", "onnx") == 2
    assert "it has no models/model.json" in capsys.readouterr().err
    (bundle / "models" / "model.pt").write_bytes(b"damaged")
    assert export(bundle, "--to", "onnx") == 2
    assert "is not the file that model.json describes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["../evil.py", "bundle/../../evil.py", "/evil.py", "..\\evil.py", "C:\\evil.py"]
)
def test_a_zip_that_climbs_out_of_its_folder_is_refused(bundle, tmp_path, capsys, name):
    archive = shutil.make_archive(str(tmp_path / "packaged"), "zip", tmp_path, "bundle")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, b"evil")
    assert export(archive, "--to", "torchscript") == 2
    assert f"{name!r} in it leads out of its folder; do not unpack it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "packaged.ts").exists()


def test_a_zip_that_would_fill_the_disk_is_refused(bundle, tmp_path, capsys):
    (bundle / "models" / "model.json").write_bytes(b" " * 10_000_000)
    archive = shutil.make_archive(str(tmp_path / "packaged"), "zip", tmp_path, "bundle")
    assert export(archive, "--to", "torchscript") == 2
    assert "in it would grow to 10000000 bytes; do not unpack it" in capsys.readouterr().err


def test_options_that_contradict_each_other(bundle, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        export(bundle, "--to", "onnx", "--int8")
    assert "calibrated on real images; give them with --data" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        export(tmp_path / "absent", "--to", "onnx")
    assert "absent does not exist" in capsys.readouterr().err
