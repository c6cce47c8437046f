"""`check` refuses just what `predict` refuses, down to the last byte of a file."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from pipelines.__main__ import main
from pipelines.data.check import check
from pipelines.data.inputs import find_inputs
from pipelines.inference.prediction import PredictionError
from tests import dicom_phantom as ph
from tests.dicom_phantom import between
from tests.opened_files import aged, opened_below
from tests.pipelines.small import write_ct, write_dataset
from tests.pipelines.tiny_model import prediction, write_dicom


def cut(path: Path, count: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def series(folder: Path, syntax=ExplicitVRLittleEndian) -> Path:
    """A series, and one slice in its middle."""
    slices = ph.Phantom((14, 12, 5), signed=True).slices()
    for image in slices:
        image.SeriesInstanceUID = f"1.2.3.{int.from_bytes(folder.name.encode()[-12:])}"
    ph.write_series(folder, slices, syntax=syntax)
    return sorted(folder.iterdir())[2]


def packed(folder: Path) -> Path:
    for path in [*[series(folder)], *folder.iterdir()]:
        if path.suffix == ".dcm" and path.exists():
            path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return sorted(folder.iterdir())[2]


def jpeg_2000(folder: Path, shared_data: Path) -> Path:
    folder.mkdir()
    path = folder / "slice.dcm"
    source = shared_data / "dicom" / "compressed_ct"
    path.write_bytes(next(source.glob(f"*_{JPEG2000Lossless}.dcm")).read_bytes())
    return path


def as_float(path: Path) -> None:
    image = pydicom.dcmread(path)
    image.FloatPixelData = np.zeros(14 * 12, "<f4").tobytes()
    del image.PixelData
    image.save_as(path)


def longer(path: Path) -> None:
    image = pydicom.dcmread(path)
    image.PixelData += bytes(24)
    image["PixelData"].VR = "OW"
    image.save_as(path)


def agree(root: Path, output: Path) -> dict[str, str]:
    """The cases that both refuse, with what `check` says of them."""
    refused = {case.case: case.problems[0] for case in check(root).refused}
    try:
        prediction(find_inputs(root), output).run()
        failed = set()
    except PredictionError as error:
        failed = {line.split(":")[0].strip() for line in str(error).splitlines()[1:] if line.startswith("  ")}
    assert failed == set(refused)
    return refused


def test_slices_cut_off_or_of_another_kind(tmp_path):
    root = tmp_path / "in"
    for name, syntax in (("raw", ExplicitVRLittleEndian), ("rle", RLELossless), ("jpeg-ls", JPEGLSLossless)):
        series(root / f"whole-{name}", syntax)
        cut(series(root / f"one-byte-{name}", syntax))
        cut(series(root / f"many-{name}", syntax), 60)
    packed(root / "whole-gzip")
    cut(packed(root / "one-byte-gzip"))
    as_float(series(root / "float"))
    longer(series(root / "longer"))
    refused = agree(root, tmp_path / "out")
    assert {
        "many-raw",
        "many-rle",
        "many-jpeg-ls",
        "one-byte-raw",
        "one-byte-gzip",
        "float",
        "longer",
    } <= set(refused)
    assert not [name for name in refused if name.startswith("whole")]
    assert "no pixel data" in refused["float"]
    assert "header and pixels do not belong together" in refused["longer"]


def test_series_that_only_their_values_refuse(tmp_path):
    root = tmp_path / "in"
    slices = ph.Phantom((24, 20, 20)).slices()
    ph.write_series(root / "two-scans", between(slices, 100))
    unknown = ph.changed(slices, None, RescaleType="US", RescaleIntercept="0", SeriesInstanceUID="1.2.3.4")
    ph.write_series(root / "no-air", unknown)
    refused = agree(root, tmp_path / "out")
    assert "alternate between 2 scans" in refused.pop("two-scans")
    assert "none is that of air" in refused.pop("no-air")
    assert not refused
    assert [case.case for case in check(root, allow=["alternating-slices"]).refused] == ["no-air"]


@pytest.mark.parametrize(("missing", "is_refused"), [(0, False), (9, True), (3000, True)])
def test_jpeg_2000_cut_off(tmp_path, shared_data, missing, is_refused):
    path = jpeg_2000(tmp_path / "in", shared_data)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - missing])
    assert bool(agree(tmp_path / "in", tmp_path / "out")) == is_refused


def test_files_cut_off_or_damaged(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    array = np.random.default_rng(0).normal(0, 300, (14, 12, 10)).astype(np.int16)
    for name in ("a.nii.gz", "b.mha", "c.nrrd"):
        for state in ("whole", "half", "flipped"):
            path = root / f"{state}-{name}"
            if name == "a.nii.gz":
                nib.save(nib.Nifti1Image(array, np.eye(4)), path)
            else:
                sitk.WriteImage(sitk.GetImageFromArray(array), str(path), True)
            raw = bytearray(path.read_bytes())
            if state == "flipped":
                raw[-200] ^= 4
            path.write_bytes(raw[: len(raw) // 2] if state == "half" else raw)
    refused = agree(root, tmp_path / "out")
    assert set(refused) == {f"{state}-{name}" for state in ("half", "flipped") for name in "abc"}


def test_the_promise_can_be_left_out_but_is_told(tmp_path, capsys):
    write_ct(tmp_path, "a")
    path = tmp_path / "imagesTr" / "a.nii.gz"
    cut(path, path.stat().st_size // 2)
    assert main(["check", str(path), "--headers-only"]) == 0
    assert main(["check", str(path)]) == 1
    assert f"refused: {path}: the file is damaged or cut off" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Every image and label is read completely" in said


def test_half_an_image_or_label_of_a_dataset(tmp_path):
    write_dataset(tmp_path)
    for name in ("imagesTr/ct0", "labelsTr/ct1"):
        path = tmp_path / f"{name}.nii.gz"
        cut(path, path.stat().st_size // 2)
    refused = {case.case: case.problems for case in check(tmp_path).refused}
    assert set(refused) == {"ct0", "ct1"}
    assert f"{tmp_path}/labelsTr/ct1.nii.gz" in refused["ct1"][0]


def test_channels_that_the_dataset_states_are_no_time(tmp_path):
    write_dataset(tmp_path)
    for path in (tmp_path / "imagesTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.stack([image.dataobj] * 2, axis=-1), image.affine), path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"modality": {"0": "CT", "1": "CT"}}))
    assert [case.problems for case in check(tmp_path).cases] == [[]] * 4


def test_notices_belong_to_their_own_case(tmp_path):
    """Cases are read side by side, and each says what is unusual about itself."""
    array = np.full((14, 12, 10), -1000, np.int16)
    array[4:10, 3:9] = np.random.default_rng(0).integers(-50, 80, (6, 6, 10))
    for index in range(12):
        path = tmp_path / f"c{index:02d}.nii"
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        if index % 3 == 0:
            path.write_bytes(path.read_bytes() + b"more")
    found = {case.case: case.notices for case in check(tmp_path).cases}
    assert [name for name, notices in found.items() if notices] == ["c00", "c03", "c06", "c09"]
    assert all(f"{name}.nii: 4 more bytes" in notices[0] for name, notices in found.items() if notices)


@pytest.mark.parametrize(("voxels", "times"), [(False, 1), (True, 2)])
def test_each_slice_is_opened_for_its_header_and_for_its_pixels(tmp_path, voxels, times):
    for name in ("p1", "p2"):
        write_dicom(tmp_path / name, series=name)
    aged(tmp_path)
    with opened_below(tmp_path) as opened:
        assert not check(tmp_path, voxels=voxels).refused
    assert len(opened) == 20
    assert set(opened.values()) == {times}
