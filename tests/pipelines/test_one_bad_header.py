"""A header that ended the process, or took all memory, costs one case: in predict, evaluate, check and training."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.__main__ import main
from pipelines.data.cases import DatasetError
from pipelines.data.check import check
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.inputs import find_inputs
from pipelines.inference.prediction import PredictionError
from tests.pipelines.small import write_ct
from tests.pipelines.tiny_model import prediction, read
from transforms.io.readers import read_label

GOOD = "good"
# Case to the file's ending and what is wrong with its header.
BAD = {
    "many-axes": (".mha", b"NDims = 3", b"NDims = 99"),
    "crash": (".mha", b"NDims = 3", b"NDims = 4096"),
    "negative": (".mha", b"NDims = 3", b"NDims = -1"),
    "channels": (".mha", b"DimSize =", b"ElementNumberOfChannels = 1000000000\nDimSize ="),
    "huge": (".nrrd", b"sizes: 20 18 16", b"sizes: 99999 99999 99999"),
    "type": (".nrrd", b"type: ", b"type: double "),
    "offset": (".nii", 108, struct.pack("<f", float("inf"))),
    "sizes": (".nii", 42, struct.pack("<hhh", 32767, 32767, 32767)),
    "scale": (".nii", 112, struct.pack("<f", float("inf"))),
}


def spoil(source: Path, case: str) -> Path:
    """A copy of a NIfTI file in the format of a bad case, with its header changed."""
    ending, place, value = BAD[case]
    path = source.with_name(f"{case}{ending}")
    sitk.WriteImage(sitk.ReadImage(str(source)), str(path))
    raw = path.read_bytes()
    if isinstance(place, int):
        raw = raw[:place] + value + raw[place + len(value) :]
    else:
        assert place in raw
        raw = raw.replace(place, value, 1)
    path.write_bytes(raw)
    return path


def cohort(root: Path, spoilt: str) -> Path:
    """A dataset of a good case and all bad ones, whose images or labels (`spoilt`) are the bad files."""
    good = write_ct(root, GOOD)
    items = [{"image": good["image"], "label": good["label"], "case": GOOD}]
    for case in BAD:
        item = {**items[0], "case": case}
        other = {"image": "label", "label": "image"}[spoilt]
        whole = write_ct(root, f"{case}-whole")
        item[spoilt] = str(spoil(Path(good[spoilt]), case))
        items.append(item | {other: whole[other]})
    names = {"0": "background", "1": "lung", "2": "liver"}
    (root / "dataset.json").write_text(json.dumps({"labels": names, "training": items}))
    return root


@pytest.mark.parametrize("spoilt", ["image", "label"])
def test_in_check_and_training(tmp_path, spoilt):
    root = cohort(tmp_path, spoilt)
    refused = {case.case: case.problems[0] for case in check(root).refused}
    assert set(refused) == set(BAD)
    assert all(f"{case}{BAD[case][0]}: " in refused[case] for case in BAD)
    with pytest.raises(DatasetError) as error:
        load_dataset(root, validation_fraction=0)
    assert all(any(f"{case}{BAD[case][0]}: " in said for said in error.value.problems) for case in BAD)


def test_in_predict(tmp_path):
    root = cohort(tmp_path, "image") / "imagesTr"
    for path in root.glob("*-whole.nii.gz"):
        path.unlink()
    with pytest.raises(PredictionError) as error:
        prediction(find_inputs(root), tmp_path / "out").run()
    assert f"{len(BAD)} of {len(BAD) + 1} cases failed" in str(error.value)
    assert all(f"\n  {case}: {root / case}{BAD[case][0]}: " in str(error.value) for case in BAD)
    label = read_label(tmp_path / "labelsTr" / f"{GOOD}.nii.gz")[0].numpy()
    np.testing.assert_array_equal(read(tmp_path / "out" / f"{GOOD}.nii.gz"), label)


@pytest.mark.parametrize("side", [0, 1])
def test_in_evaluate(tmp_path, capsys, side):
    """Without names of classes all label maps are read first, which one of these ended."""
    folders = [tmp_path / name for name in ("p", "r")]
    for folder in folders:
        write_ct(folder, GOOD)
        for case in BAD:
            write_ct(folder, case)
    for case in BAD:
        whole = folders[side] / "labelsTr" / f"{case}.nii.gz"
        spoil(whole, case)
        whole.unlink()
    status = main(["evaluate", *(str(folder / "labelsTr") for folder in folders), "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert status == 1
    assert [case["case"] for case in found["cases"]] == [GOOD]
    assert set(found["failed"]) == set(BAD)
    assert all(f"{case}{BAD[case][0]}: " in found["failed"][case] for case in BAD)
