"""Metrics per case and class, against MONAI's and SimpleITK's; summaries; the files that hold them."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from monai.networks.utils import one_hot
from scipy import stats

from pipelines.metrics.overlap import case_dice, confusion_matrix, overlap_metrics
from pipelines.metrics.result_files import (
    results,
    without_nan,
    write_csv,
    write_json,
    write_summary_csv,
)
from pipelines.metrics.statistics import RESAMPLES
from pipelines.metrics.summary import (
    ABSENT,
    FALSE_POSITIVE,
    METRICS,
    MISSED,
    PRESENT,
    figures,
    outcome,
    summarise,
    table,
    value_of,
)
from pipelines.metrics.surfaces import require_tolerance, surface_distances, surface_metrics
from tests.pipelines import masks

SHAPES = [(9, 8, 7), (31, 20)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
def test_dice_is_monais_on_random_masks(dtype):
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        prediction, reference = (torch.randint(0, 5, shape, generator=generator) for _ in range(2))
        prediction[prediction == 4] = 0  # in the reference only
        metric = DiceMetric(include_background=True, reduction="none")
        theirs = metric(*(one_hot(x[None, None], 5) for x in (prediction, reference)))[0]
        ours = case_dice(prediction.to(dtype), reference.to(dtype), 5)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours.float(), theirs)
        assert ours[4] == 0


@pytest.mark.parametrize("classes", [2, 5, 16, 17, 105, 200, 60_000 // 200])
def test_counting_is_numpys_histogram_for_any_number_of_classes(classes):
    random = np.random.default_rng(classes)
    dtype = np.uint8 if classes <= 256 else np.uint16
    maps = [random.integers(0, classes, (40, 30, 20)).astype(dtype) for _ in range(2)]
    counts = confusion_matrix(*map(torch.from_numpy, maps), classes)
    expected = np.histogram2d(maps[1].ravel(), maps[0].ravel(), bins=classes, range=[[0, classes]] * 2)[0]
    np.testing.assert_array_equal(counts.numpy(), expected)
    assert counts.dtype == torch.int64


def test_counting_goes_on_past_the_first_block(monkeypatch):
    maps = [torch.from_numpy(masks.label_map(seed, (20, 19, 18), 4)) for seed in (0, 1)]
    whole = confusion_matrix(*maps, 4)
    monkeypatch.setattr("pipelines.metrics.overlap._BLOCK", 101)
    assert torch.equal(confusion_matrix(*maps, 4), whole)


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


NAMES = ["liver", "cyst", "stone"]


def scored(prediction, reference, names=NAMES, voxel_ml=0.5):
    pair = (torch.as_tensor(prediction), torch.as_tensor(reference))
    return overlap_metrics(confusion_matrix(*pair, len(names) + 1), names, voxel_ml)


@pytest.mark.parametrize("shape", SHAPES)
def test_overlap_is_monais(shape):
    for seed in range(3):
        prediction, reference = (masks.label_map(seed + n, shape, 4) for n in (0, 50))
        ours = scored(prediction, reference)
        hot = [one_hot(torch.from_numpy(x)[None, None], 4) for x in (prediction, reference)]
        iou = MeanIoU(include_background=False, reduction="none")(*hot)[0]
        assert list(ours["iou"].values()) == pytest.approx(iou.tolist(), abs=1e-6)
        for ours_name, theirs_name in (("sensitivity", "sensitivity"), ("precision", "precision")):
            metric = ConfusionMatrixMetric(False, theirs_name, reduction="none")
            metric(*hot)
            theirs = metric.aggregate()[0][0]
            assert list(ours[ours_name].values()) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_overlap_is_simpleitks():
    import SimpleITK as sitk

    for seed in range(3):
        prediction, reference = (masks.label_map(seed + n, (15, 14, 13), 4) for n in (0, 50))
        ours = scored(prediction, reference, voxel_ml=0.5)
        measure = sitk.LabelOverlapMeasuresImageFilter()
        measure.Execute(*(sitk.GetImageFromArray(x.T) for x in (prediction, reference)))
        for value, name in enumerate(NAMES, start=1):
            assert ours["dice"][name] == pytest.approx(measure.GetDiceCoefficient(value))
            assert ours["iou"][name] == pytest.approx(measure.GetJaccardCoefficient(value))
            assert ours["sensitivity"][name] == pytest.approx(1 - measure.GetFalseNegativeError(value))
            assert ours["precision"][name] == pytest.approx(1 - measure.GetFalseDiscoveryRate(value))
            # Volume similarity is 2 (source - target) / (source + target), the prediction being the source.
            total = int((prediction == value).sum() + (reference == value).sum())
            error = measure.GetVolumeSimilarity(value) * total / 2 * 0.5
            assert ours["volume_error_ml"][name] == pytest.approx(error)


def test_what_is_absent_missed_or_too_much_is_told_apart():
    #            right, missed, too much, in neither
    reference = [1, 1, 2, 2, 0, 0]
    prediction = [1, 1, 0, 0, 3, 3]
    names = ["right", "missed", "too much", "neither"]
    found = scored(prediction, reference, names) | {"case": "a"}
    assert [outcome(found, name) for name in names] == [PRESENT, MISSED, FALSE_POSITIVE, ABSENT]
    assert [found["dice"][n] for n in names[:3]] == [1, 0, 0]
    assert [found["sensitivity"][n] for n in names[:2]] == [1, 0]
    assert found["precision"]["too much"] == 0
    assert [found["volume_error_ml"][n] for n in names[:3]] == [0, -1, 1]
    undefined = [found["sensitivity"]["too much"], found["precision"]["missed"]]
    undefined += [found[metric]["neither"] for metric in METRICS[:5]]
    assert all(map(math.isnan, undefined))
    surfaces = surface_metrics(
        np.array(prediction).reshape(6, 1, 1), np.array(reference).reshape(6, 1, 1), names, np.eye(4), 1.0
    )
    assert [surfaces["nsd"][n] for n in names[:3]] == [1, 0, 0]
    assert math.isnan(surfaces["nsd"]["neither"])
    assert surfaces["hd95_mm"]["right"] == 0
    assert all(math.isnan(surfaces[m][n]) for m in ("hd95_mm", "msd_mm") for n in names[1:])
    summary = summarise([found | surfaces], names)
    assert [summary[key] for key in ("absent", "missed", "false_positives")] == [1, 1, 1]
    assert summary["classes"]["missed"]["missed"] == 1
    assert summary["classes"]["missed"]["hd95_mm"]["n"] == 0
    assert summary["classes"]["too much"]["false_positive_ml"] == 1.0
    assert summary["mean_dice"] == pytest.approx(1 / 3), "a false positive and a miss count as Dice 0"


def test_a_picture_without_depth_has_no_millilitres():
    found = scored([0, 1], [0, 1], ["cell"], None)
    assert math.isnan(found["volume_error_ml"]["cell"])
    assert found["dice"]["cell"] == 1


def test_surfaces_of_a_class_are_those_of_its_mask_wherever_it_lies():
    affine = np.diag([0.7, 0.9, 3.0, 1.0])
    prediction, reference = (masks.label_map(seed, (20, 18, 12), 4) for seed in (4, 5))
    found = surface_metrics(prediction, reference, NAMES, affine, {"liver": 1.0, "cyst": 2.0, "stone": 3.0})
    for value, name in enumerate(NAMES, start=1):
        whole = surface_distances(prediction == value, reference == value, affine)
        assert found["hd95_mm"][name] == pytest.approx(whole.hd95)
        assert found["msd_mm"][name] == pytest.approx(whole.mean)
        assert found["nsd"][name] == pytest.approx(whole.dice(float(value)))


@pytest.mark.parametrize(
    ("tolerance", "said"),
    [
        (0, "0 for the class 'liver'"),
        ("2", "'2' for"),
        (True, "True"),
        (math.inf, "inf"),
        ({"liver": 1}, "'cyst'"),
    ],
)
def test_a_tolerance_that_is_none_is_refused(tolerance, said):
    with pytest.raises(ValueError, match=said):
        require_tolerance(tolerance, NAMES)
    assert require_tolerance(1.5, NAMES) == 1.5


def test_real_contours_agree_with_monai(shared_data):
    import nibabel as nib

    description = json.loads((shared_data / "openkbp" / "dataset.json").read_text())
    names = [description["labels"][str(value)] for value in range(1, 5)]
    for entry in description["validation"][:2]:
        image = nib.load(shared_data / "openkbp" / entry["label"])
        reference = np.asarray(image.dataobj).astype(np.uint8)
        prediction = np.roll(reference, (1, 0, -1), (0, 1, 2))
        prediction[prediction == 3] = 0
        ours = scored(prediction, reference, names)
        hot = [one_hot(torch.from_numpy(x)[None, None], 5) for x in (prediction, reference)]
        theirs = DiceMetric(include_background=False, reduction="none")(*hot)[0]
        assert list(ours["dice"].values()) == pytest.approx(theirs.tolist(), abs=1e-6)
        surfaces = surface_metrics(prediction, reference, names, image.affine, 3.0)
        from monai.metrics import compute_surface_dice

        spacing = np.linalg.norm(image.affine[:3, :3], axis=0).tolist()
        expected = compute_surface_dice(*hot, [3.0] * 4, spacing=spacing, use_subvoxels=True)[0]
        present = [n for n in range(4) if hot[0][0, n + 1].any()]
        assert [surfaces["nsd"][names[n]] for n in present] == pytest.approx(
            [float(expected[n]) for n in present], abs=1e-5
        )
        assert math.isnan(surfaces["hd95_mm"][names[2]]), "missed"


few = settings(max_examples=30)
maps = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2)
)


@few
@given(maps)
def test_dice_and_iou_say_the_same_and_errors_change_sign(pair):
    one, other = scored(*pair), scored(*pair[::-1])
    for name in NAMES:
        dice, iou = one["dice"][name], one["iou"][name]
        assert math.isnan(dice) == math.isnan(iou)
        if not math.isnan(dice):
            assert dice == pytest.approx(2 * iou / (1 + iou))
            assert other["dice"][name] == dice
            assert other["volume_error_ml"][name] == -one["volume_error_ml"][name]
            swapped = [other["precision"][name], other["sensitivity"][name]]
            np.testing.assert_equal([one["sensitivity"][name], one["precision"][name]], swapped)


CASES = [
    {"case": "a", "dice": {"liver": 0.9, "cyst": math.nan, "stone": math.nan}},
    {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": math.nan}},
    {"case": "c, d", "dice": {"liver": 0.8, "cyst": 0.0, "stone": math.nan}},
]


def test_the_summary_leaves_absent_structures_out():
    summary = summarise(CASES, NAMES)
    liver = {"mean": 0.8, "median": 0.8, "min": 0.7, "max": 0.9, "std": 0.1, "n": 3}
    assert summary["classes"]["liver"]["dice"] == pytest.approx(liver)
    assert summary["classes"]["cyst"]["dice"]["mean"] == 0.25
    assert summary["classes"]["cyst"]["absent"] == 1
    assert summary["classes"]["stone"]["dice"]["n"] == 0
    assert summary["mean_dice"] == summary["mean"]["dice"] == pytest.approx((0.8 + 0.25) / 2)
    assert summary["missed"] is None, "Dice alone does not tell a miss from a false positive"
    assert math.isnan(summarise([], NAMES)["mean_dice"])
    lines = table(summary).splitlines()
    assert [line.split()[0] for line in lines] == ["class", *NAMES, "mean"]
    assert lines[1].split()[1:] == ["0.8000", "0.8000", "0.7000", "3"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert table(summarise(CASES, []))
    assert figures(summary) == pytest.approx({"mean_dice": 0.525, "dice_liver": 0.8, "dice_cyst": 0.25})


def many(seed, number=25):
    random = np.random.default_rng(seed)
    cases = []
    for index in range(number):
        dice = dict(zip(NAMES, random.beta(8, 2, 3).tolist(), strict=True))
        if index % 4 == 0:
            dice["cyst"] = math.nan
        cases.append({"case": f"c{index}", "dice": dice})
    return cases


def test_the_interval_of_a_class_is_scipys():
    summary = summarise(many(1), NAMES, intervals=True)
    values = np.array([case["dice"]["liver"] for case in many(1)])
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=200, rng=np.random.default_rng(0)
    ).confidence_interval
    assert summary["classes"]["liver"]["dice"]["ci95"] == pytest.approx(list(expected))
    assert summarise(many(1), NAMES, intervals=True) == summary, "the same samples every time"
    low, high = summary["mean_ci95"]["dice"]
    assert low < summary["mean_dice"] < high
    widest = max(row["dice"]["ci95"][1] - row["dice"]["ci95"][0] for row in summary["classes"].values())
    assert high - low < widest, "the mean of several classes is surer than each"


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth, held = 0.8, 0
    for seed in range(100):
        cases = many(seed, 30)
        low, high = summarise(cases, ["liver"], intervals=True)["classes"]["liver"]["dice"]["ci95"]
        held += low <= truth <= high
    assert 87 <= held <= 99


def test_intervals_of_few_or_equal_cases():
    one = summarise(CASES[:1], NAMES, intervals=True)
    assert one["classes"]["liver"]["dice"]["ci95"] is None
    assert one["classes"]["stone"]["dice"]["ci95"] is None
    assert one["mean_ci95"] == {"dice": None}
    equal = summarise([CASES[0], CASES[0] | {"case": "b"}], NAMES, intervals=True)
    assert equal["classes"]["liver"]["dice"]["ci95"] == [0.9, 0.9]
    assert table(one)
    assert "0.9000 to 0.9000" in table(equal)


def full_cases():
    found = []
    for number in range(4):
        prediction, reference = (masks.label_map(number + n, (8, 8, 8), 4) for n in (0, 9))
        if number == 2:
            prediction[prediction == 1] = 0
        record = {"case": f"c{number}"} | scored(prediction, reference)
        found.append(record | surface_metrics(prediction, reference, NAMES, np.eye(4), 1.0))
    return found


def test_csv_holds_every_case_and_class(tmp_path):
    write_csv(tmp_path / "new" / "metrics.csv", CASES, NAMES)
    with (tmp_path / "new" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert rows[6] == {"case": "c, d", "class": "liver", "dice": "0.800000"}
    assert rows[1] == {"case": "a", "class": "cyst", "dice": ""}
    cases = full_cases()
    write_csv(tmp_path / "metrics.csv", cases, NAMES)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[2:10] == list(METRICS)
    assert float(rows[1]["hd95_mm"]) == pytest.approx(cases[0]["hd95_mm"]["cyst"], abs=1e-6)
    missed = next(row for row in rows if row["outcome"] == MISSED)
    assert (missed["case"], missed["class"], missed["dice"]) == ("c2", "liver", "0.000000")
    assert missed["hd95_mm"] == missed["precision"] == ""
    assert missed["prediction_voxels"] == "0"


def test_the_summary_as_csv(tmp_path):
    summary = summarise(full_cases(), NAMES, intervals=True)
    write_summary_csv(tmp_path / "summary.csv", summary)
    with (tmp_path / "summary.csv").open(newline="") as stream:
        rows = {(row["class"], row["metric"]): row for row in csv.DictReader(stream)}
    assert len(rows) == len(NAMES) * len(METRICS)
    row = rows["liver", "hd95_mm"]
    assert row["n"] == "3"
    assert row["missed"] == "1"
    assert float(row["mean"]) == pytest.approx(summary["classes"]["liver"]["hd95_mm"]["mean"], abs=1e-6)
    assert float(row["ci95_low"]) <= float(row["mean"]) <= float(row["ci95_high"])


def test_json_is_what_comparisons_read(tmp_path):
    summary = summarise(CASES, NAMES)
    write_json(tmp_path / "metrics.json", CASES, NAMES, summary)
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text, "NaN is no JSON"
    read = json.loads(text)
    assert read == json.loads(json.dumps(results(CASES, NAMES, split="validation")))
    assert (read["format"], read["split"], read["classes"]) == (1, "validation", NAMES)
    assert read["cases"][1] == {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": None}}
    assert read["summary"]["classes"]["stone"]["dice"]["mean"] is None
    assert read["summary"]["mean_dice"] == pytest.approx(summary["mean_dice"])
    for case in results(full_cases(), NAMES)["cases"]:
        assert set(METRICS) < set(case)
        assert all(set(case[metric]) == set(NAMES) for metric in METRICS)


def test_cases_read_back_from_json_count_as_those_measured():
    for cases in (CASES, full_cases()):
        read = json.loads(json.dumps(without_nan(cases)))
        np.testing.assert_equal(
            summarise(read, NAMES, intervals=True), summarise(cases, NAMES, intervals=True)
        )


def test_what_has_no_value_is_nan_in_every_form():
    case = {"case": "a", "dice": {"liver": 0.5, "cyst": None, "stone": math.nan}}
    assert value_of(case, "dice", "liver") == 0.5
    assert all(math.isnan(value_of(case, "dice", name)) for name in ("cyst", "stone", "unknown"))
    assert math.isnan(value_of(case, "hd95_mm", "liver"))


def test_a_full_table_names_misses_and_false_positives():
    text = table(summarise(full_cases(), NAMES, intervals=True))
    assert "hd95_mm" in text
    assert text.splitlines()[0].endswith("missed  false positive")
    assert text.splitlines()[1].split()[-2:] == ["1", "0"]
