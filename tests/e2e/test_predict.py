"""Prediction as a user types it, with a small model that makes no mistakes."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import slicerio
from PIL import Image

from pipelines.__main__ import main
from pipelines.inference.outputs import UNFINISHED
from tests.e2e.commands import REPOSITORY, Workplace
from tests.pipelines.small import write_ct, write_dataset
from tests.pipelines.tiny_model import HALT, read, write_dicom, write_model
from tests.waiting import wait_for
from transforms.io.label_tables import LABEL_TABLES
from transforms.io.readers import read_label

BUNDLE = "bundles/r2unet"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(monkeypatch, model):
    """`python -m pipelines predict` in this process; what MONAI and the config set up is undone afterwards."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loggers = [logging.getLogger(name) for name in ("", "pipelines", "monai.bundle")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]

    def run(path, output, *words, model=model):
        given = [
            "predict",
            path,
            "-o",
            output,
            "--bundle",
            BUNDLE,
            "--model",
            model,
            "--device",
            "cpu",
            *words,
        ]
        return main([str(word) for word in given])

    yield run
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


def bundle_words(model, path, output):
    return [
        *("-m", "monai.bundle", "run", "--config_file", f"{BUNDLE}/inference.json"),
        *("--input", str(path), "--output", str(output), "--model", str(model)),
    ]


def cohort(folder, count, broken=(), size=20):
    cases = [write_ct(folder, f"ct{i:02d}", shape=(size,) * 3) for i in range(count)]
    for index in broken:
        Path(cases[index]["image"]).write_bytes(b"no image")
    return folder / "imagesTr", cases


def is_right(output, case):
    return np.array_equal(read(output / f"{case['case']}.nii.gz"), read_label(case["label"])[0].numpy())


def report(output, case):
    return json.loads((output / f"{case}.json").read_text())


def test_both_commands_are_one(model, command, tmp_path, capsys):
    """A cohort with a broken case through MONAI's command, and again through the short form, which finds it done."""
    images, cases = cohort(tmp_path, 3, broken=[1])
    out = tmp_path / "out"
    place = Workplace(tmp_path)
    result = place.run(bundle_words(model, images, out), check=False)
    assert result.returncode == 1
    assert "error: 1 of 3 cases failed:\n  ct01: " in result.stderr
    assert "ct01.nii.gz: not a NIfTI file" in result.stderr
    assert "Traceback" not in result.stderr
    assert is_right(out, cases[0])
    assert is_right(out, cases[2])
    assert report(out, "ct01")["status"] == "failed"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert command(images, out) == 1
    said = capsys.readouterr()
    assert "0 of 3 cases segmented, 2 done before, 1 failed" in said.out
    assert said.err.rstrip().endswith("ct01.nii.gz: not a NIfTI file (Binary block is wrong size).")
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")} == before
    Path(cases[1]["image"]).unlink()
    assert command(images, out, "--overlap", "0.25") == 0
    assert all(path.stat().st_mtime_ns != old for path, old in before.items()), (
        "another overlap, another result"
    )


def test_an_exported_network_in_place_of_torch(model, command, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    images, (case,) = cohort(tmp_path, 1)
    out = tmp_path / "out"
    assert command(images, out, "--engine", "onnx", "--precision", "fp32") == 0
    assert is_right(out, case)
    assert report(out, "ct00")["computed"] == {"device": "cpu", "engine": "onnx", "precision": "fp32"}
    assert report(out, "ct00")["settings"]["engine"] == "onnx"
    (export,) = (model.parent / "engines").glob("*.onnx")
    assert command(images, out, "--engine", export, "--precision", "fp32") == 0
    assert is_right(out, case)
    assert command(images, out, "--engine", "fast") == 2
    assert "there is no engine and no exported network 'fast'" in capsys.readouterr().err


def test_dicom_in_and_everything_out(command, tmp_path):
    label = write_dicom(tmp_path / "patient")
    out = tmp_path / "patient" / "results"
    extra = ["--keep-largest", "all", "--fill-holes", "lung", "--min-volume", "0.001"]
    for _ in range(2):  # the results in the folder of the slices are no part of the input
        assert command(tmp_path / "patient", out, "--preview", *extra) == 0
        np.testing.assert_array_equal(read(out / "patient.nii.gz"), label)
    found = report(out, "patient")
    assert found["settings"]["postprocessing"] == {
        "largest_component": ["all"],
        "fill_holes": ["lung"],
        "min_volume_ml": {"all": 0.001},
    }
    assert found["volumes"]["lung"]["ml"] == pytest.approx((label == 1).sum() * 0.8 * 0.9 * 2.5 / 1000)
    assert sorted(path.name for path in out.iterdir()) == [
        *("index.html", "labels.ctbl", "labels.json", "labels_itksnap.txt"),
        *("patient.json", "patient.nii.gz", "patient_preview.png", "volumes.csv"),
    ]


def test_a_segmentation_of_slicer_of_any_volume_but_no_picture(command, tmp_path, capsys):
    write_dicom(tmp_path / "patient")
    assert command(tmp_path / "patient", tmp_path / "out", "--format", "nii.gz", "seg.nrrd") == 0
    label = np.asarray(nib.load(tmp_path / "out" / "patient.nii.gz").dataobj)
    found = slicerio.read_segmentation(str(tmp_path / "out" / "patient.seg.nrrd"))
    assert slicerio.segment_names(found) == ["lung", "liver"]
    # The axes of the files may differ: each voxel of one lies where the same voxel of the other does.
    world = nib.load(tmp_path / "out" / "patient.nii.gz").affine
    for index in np.argwhere(label)[::97]:
        place = np.diag([-1, -1, 1, 1]) @ world @ [*index, 1]
        other = np.linalg.solve(found["ijkToLPS"], place)[:3].round().astype(int)
        assert found["voxels"][tuple(other)] == label[tuple(index)]
    assert (found["voxels"] > 0).sum() == (label > 0).sum()
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    assert command(tmp_path / "photo.png", tmp_path / "flat", "--format", "seg.nrrd") == 2
    assert "is a picture, which has no place in space" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["seg", "rtstruct"])
def test_dicom_out(command, tmp_path, name):
    write_dicom(tmp_path / "patient")
    assert command(tmp_path / "patient", tmp_path / "out", "--format", name) == 0
    assert (tmp_path / "out" / f"patient.{name}.dcm").stat().st_size > 1000


def test_ensemble_and_mirroring(command, model, tmp_path):
    if "mirror_axes" not in (REPOSITORY / BUNDLE / "inference.json").read_text():
        pytest.skip("this config knows no mirroring")
    images, (case,) = cohort(tmp_path, 1)
    out = tmp_path / "out"
    other = write_model(tmp_path / "other", shift=0.001)
    assert command(images, out, "--mirror", "1,2", model=f"{model},{other}") == 0
    assert is_right(out, case)
    found = report(out, "ct00")
    assert len(set(found["models"])) == 2
    assert found["pass_agreement"] == {"lung": pytest.approx(1), "liver": pytest.approx(1)}
    assert found["settings"]["mirror_axes"] == [1, 2]


def test_windows_are_those_of_the_models_validations(command, tmp_path):
    if "mirror_axes" not in (REPOSITORY / BUNDLE / "inference.json").read_text():
        pytest.skip("this config knows no mirroring")
    images, (case,) = cohort(tmp_path, 1)
    model = write_model(tmp_path / "mirrored", mirror_axes=[1, 2], overlap=0.75)
    for words, axes, overlap in (
        ([], [1, 2], 0.75),
        (["--mirror", "none", "--overlap", "0.25"], [], 0.25),
        (["--mirror", "0"], [0], 0.75),
    ):
        out = tmp_path / f"out{overlap}{len(axes)}"
        assert command(images, out, *words, model=model) == 0
        assert is_right(out, case)
        found = report(out, "ct00")
        assert (found["settings"]["mirror_axes"], found["settings"]["overlap"]) == (axes, overlap)
        assert ("pass_agreement" in found) is bool(axes)


def test_windows_given_as_the_models_are_no_other_setting(command, tmp_path):
    if "mirror_axes" not in (REPOSITORY / BUNDLE / "inference.json").read_text():
        pytest.skip("this config knows no mirroring")
    images, _ = cohort(tmp_path, 1)
    model = write_model(tmp_path / "mirrored", mirror_axes=[1], overlap=0.75)
    assert command(images, tmp_path / "out", model=model) == 0
    before = (tmp_path / "out" / "ct00.json").stat().st_mtime_ns
    assert command(images, tmp_path / "out", "--mirror", "1", "--overlap", "0.75", model=model) == 0
    assert (tmp_path / "out" / "ct00.json").stat().st_mtime_ns == before


def test_a_dataset_is_evaluated(command, tmp_path, capsys):
    write_dataset(tmp_path / "data", training=2, validation=1)
    out = tmp_path / "out"
    assert command(tmp_path / "data" / "dataset.json", out, "--split", "training") == 0
    with (out / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["case"] for row in rows} == {"ct0", "ct1"}
    assert all(float(row["dice"]) == 1 for row in rows)
    assert json.loads((out / "metrics.json").read_text())["summary"]["mean_dice"] == 1
    assert all(float(row["hd95_mm"]) == 0 and float(row["nsd"]) == 1 for row in rows)
    assert report(out, "ct0")["metrics"]["volume_error_ml"] == {"lung": 0.0, "liver": 0.0}
    assert "Dice mean" in capsys.readouterr().out


def test_mistakes_are_one_sentence_and_status_2(command, model, tmp_path, capsys):
    images, _ = cohort(tmp_path, 1)
    out = tmp_path / "out"
    for words, said in (
        (["--keep-largest", "spleen"], "'spleen', which the model does not have"),
        (["--format", "seg"], "is not DICOM"),
        (["--split", "test"], "is not a dataset"),
    ):
        assert command(images, out, *words) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert said in line
    for words, said in (
        ([tmp_path / "absent", "-o", out, "--bundle", BUNDLE], "absent does not exist"),
        ([images, "-o", out, "--bundle", tmp_path], "is not a bundle"),
        (
            [images, "-o", out, "--bundle", BUNDLE, "--model", tmp_path / "m.pt"],
            "there is no trained model at",
        ),
        ([images, "-o", out, "--bundle", BUNDLE, "--model", model, "--overlap", "2"], "between 0 and 0.9"),
        ([images, "-o", model, "--bundle", BUNDLE, "--model", model], "is a file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["predict", *map(str, words)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert not out.exists()


def test_help_comes_at_once():
    """Help and mistakes in paths must not wait for torch and MONAI to load."""
    code = (
        "import sys; from pipelines.__main__ import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit as ended: print(ended.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.endswith("0 False\n"), result.stderr
    assert "exit status: 0 success" in result.stdout


def whole_results(out):
    """Names of the cases that are done; every file in the folder must be whole, and every report true."""
    done = set()
    for path in out.glob("*.json"):
        found = json.loads(path.read_text())
        if found.get("status") == "done":
            done.add(found["case"])
            for name, size in found["outputs"].items():
                assert (out / name).stat().st_size == size
    for path in out.glob("*.nii.gz"):
        read(path)
    files = {path for path in out.iterdir() if path.is_file() and path.name not in LABEL_TABLES}
    assert not [path for path in files if path.suffix not in (".gz", ".json", ".csv")]
    return done


def test_kill_9_leaves_no_half_file(model, command, tmp_path, capsys):
    """At any moment from the third case on, and at the twentieth at the latest."""
    images, cases = cohort(tmp_path, 24, size=36)
    out = tmp_path / "out"
    place, silent = Workplace(tmp_path), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with place.started(bundle_words(model, images, out), {HALT: f"20:{out}"}, **silent) as process:
        wait_for(lambda: len(list(out.glob("ct*.json"))) >= 3, process)
        process.kill()
        process.wait()
    done = whole_results(out)
    assert 3 <= len(done) < len(cases)
    before = {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in done}
    assert command(images, out) == 0
    assert (
        f"{len(cases) - len(done)} of {len(cases)} cases segmented, {len(done)} done before"
        in capsys.readouterr().out
    )
    assert {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in done} == before
    assert whole_results(out) == {case["case"] for case in cases}
    assert all(is_right(out, case) for case in cases)
    assert not (out / UNFINISHED).exists()


def torchrun(words):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words]


def test_two_processes_share_a_cohort(model, tmp_path):
    images, cases = cohort(tmp_path, 5, broken=[1])
    out = tmp_path / "out"
    place = Workplace(tmp_path)
    result = place.run(torchrun(bundle_words(model, images, out)), check=False)
    assert result.returncode != 0
    assert "4 of 5 cases segmented, 1 failed" in result.stdout
    assert result.stderr.count("1 of 5 cases failed") == 1
    assert "ct01.nii.gz: not a NIfTI file" in result.stderr
    assert all(is_right(out, case) for case in cases if case["case"] != "ct01")
    with (out / "volumes.csv").open(newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"ct00", "ct02", "ct03", "ct04"}


@pytest.mark.slow
def test_the_cases_of_a_killed_process_are_listed(model, tmp_path):
    images, cases = cohort(tmp_path, 24)
    out = tmp_path / "out"
    place, pipes = Workplace(tmp_path), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with place.started(torchrun(bundle_words(model, images, out)), {HALT: f"12:{out}"}, **pipes) as process:
        wait_for(lambda: len(list(out.glob("ct*.json"))) >= 6, process)
        ranks = psutil.Process(process.pid).children()
        (second,) = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
        second.kill()
        said, complained = process.communicate()
    assert process.returncode != 0
    done = whole_results(out)
    assert f"{len(done)} of {len(cases)} cases segmented, {len(cases) - len(done)} not reached" in said
    for case in cases:
        assert (f"{case['case']}: not done, because its process ended" in complained) == (
            case["case"] not in done
        )


def test_a_link_to_nothing_is_a_case_that_fails(tmp_path, command, capsys):
    images, cases = cohort(tmp_path, 1)
    (images / "lost.nii.gz").symlink_to(tmp_path / "absent.nii.gz")
    assert command(images, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "1 of 2 cases segmented, 1 failed" in said.out
    assert f"lost: {images / 'lost.nii.gz'}: a link to nothing ({tmp_path / 'absent.nii.gz'})" in said.err
    assert is_right(tmp_path / "out", cases[0])
    assert report(tmp_path / "out", "lost")["status"] == "failed"


def test_a_strangers_model_runs_nothing_and_nothing_is_predicted(tmp_path, command, capsys):
    images, _ = cohort(tmp_path, 1)
    path = write_model(tmp_path / "theirs")
    card = json.loads(path.with_suffix(".json").read_text())
    card["network"] |= {"_target_": "networks.R2UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    witness = str(tmp_path / "ran")
    card["network"]["num_steps"] = {"_target_": "builtins.open", "file": witness, "mode": "w"}
    path.with_suffix(".json").write_text(json.dumps(card))
    assert command(images, tmp_path / "out", model=path) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(
        f"error: {path.with_suffix('.json')} is not the description of a trained model: "
    )
    assert not Path(witness).exists()
    assert not (tmp_path / "out" / "ct00.nii.gz").exists()
