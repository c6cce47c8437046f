"""Dice per case and class, against MONAI's."""

import csv
import json
import math

import pytest
import torch
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

from pipelines.metrics import case_dice, confusion_matrix, summarise, table, write_csv, write_json


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
def test_dice_is_monais_on_random_masks(dtype):
    generator = torch.Generator().manual_seed(0)
    for shape in ((9, 8, 7), (31, 20)):
        prediction, reference = (torch.randint(0, 5, shape, generator=generator) for _ in range(2))
        prediction[prediction == 4] = 0  # in the reference only
        metric = DiceMetric(include_background=True, reduction="none")
        theirs = metric(*(one_hot(x[None, None], 5) for x in (prediction, reference)))[0]
        ours = case_dice(prediction.to(dtype), reference.to(dtype), 5)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours.float(), theirs)
        assert ours[4] == 0


def test_an_absent_class_has_no_dice():
    reference = torch.tensor([0, 0, 1, 1])
    dice = case_dice(torch.tensor([0, 1, 1, 1]), reference, 4)
    assert dice[:2].tolist() == pytest.approx([2 / 3, 0.8])
    assert dice[2:].isnan().all()
    assert case_dice(reference, reference, 2).tolist() == [1.0, 1.0]


def test_the_confusion_matrix_counts_reference_in_rows():
    counts = confusion_matrix(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 0], [1, 1]]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("prediction", "reference"), [([0, 3], [0, 1]), ([0, 1], [0, 3]), ([0, -1], [0, 1]), ([0, 0], [0, -1])]
)
def test_classes_that_do_not_exist_are_refused(prediction, reference):
    with pytest.raises(ValueError, match="there are 3, 0 to 2"):
        case_dice(torch.tensor(prediction), torch.tensor(reference), 3)


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and reference \(3,\) differ"):
        case_dice(torch.zeros(2), torch.zeros(3), 2)


CASES = [
    {"case": "a", "dice": {"liver": 0.9, "cyst": math.nan, "stone": math.nan}},
    {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": math.nan}},
    {"case": "c, d", "dice": {"liver": 0.8, "cyst": 0.0, "stone": math.nan}},
]
NAMES = ["liver", "cyst", "stone"]


def test_the_summary_leaves_absent_structures_out():
    summary = summarise(CASES, NAMES)
    assert summary["classes"]["liver"] == pytest.approx({"mean": 0.8, "median": 0.8, "min": 0.7, "cases": 3})
    assert summary["classes"]["cyst"] == pytest.approx({"mean": 0.25, "median": 0.25, "min": 0.0, "cases": 2})
    assert summary["classes"]["stone"]["cases"] == 0
    assert summary["mean_dice"] == pytest.approx((0.8 + 0.25) / 2)
    assert math.isnan(summarise([], NAMES)["mean_dice"])
    lines = table(summary).splitlines()
    assert [line.split()[0] for line in lines] == ["class", *NAMES, "mean"]
    assert lines[1].split()[1:] == ["0.8000", "0.8000", "0.7000", "3"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert table(summarise(CASES, []))


def test_csv_and_json_hold_every_case_and_class(tmp_path):
    write_csv(tmp_path / "new" / "dice.csv", CASES, NAMES)
    with (tmp_path / "new" / "dice.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert rows[6] == {"case": "c, d", "class": "liver", "dice": "0.800000"}
    assert rows[1] == {"case": "a", "class": "cyst", "dice": ""}
    summary = summarise(CASES, NAMES)
    write_json(tmp_path / "dice.json", CASES, summary)
    text = (tmp_path / "dice.json").read_text()
    assert "NaN" not in text, "NaN is no JSON"
    read = json.loads(text)
    assert read["cases"][1] == {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": None}}
    assert read["summary"]["classes"]["stone"]["mean"] is None
    assert read["summary"]["mean_dice"] == pytest.approx(summary["mean_dice"])
