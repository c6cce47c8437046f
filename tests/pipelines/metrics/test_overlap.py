"""Overlap per case and class, against MONAI's and SimpleITK's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from monai.networks.utils import one_hot

from pipelines.metrics.overlap import case_dice, confusion_matrix, overlap_metrics
from tests.pipelines import masks
from tests.pipelines.metrics.scored import NAMES, scored

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
    with pytest.raises(ValueError, match="they must be in the range 0 to 2"):
        case_dice(torch.tensor(prediction), torch.tensor(reference), 3)


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and reference \(3,\) differ"):
        case_dice(torch.zeros(2), torch.zeros(3), 2)


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


def test_a_picture_without_depth_has_no_millilitres():
    found = scored([0, 1], [0, 1], ["cell"], None)
    assert math.isnan(found["volume_error_ml"]["cell"])
    assert found["dice"]["cell"] == 1


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


REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def test_regions_and_ignored_voxels_are_counted_as_numpy_counts_masks():
    random = np.random.default_rng(4)
    prediction, reference = random.integers(0, 4, (9, 8, 7)), random.integers(0, 5, (9, 8, 7))
    counts = reference != 4
    prediction[~counts] = random.integers(0, 9, int((~counts).sum()))  # whatever is there
    confusion = confusion_matrix(*(torch.from_numpy(x) for x in (prediction, reference)), 4, ignore=4)
    assert confusion.sum() == counts.sum()
    found = overlap_metrics(confusion, ["a", "b", "c"], 0.5, REGIONS)
    for name, members in REGIONS.items():
        p, r = (np.isin(x, members) & counts for x in (prediction, reference))
        assert found["dice"][name] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
        assert found["iou"][name] == pytest.approx((p & r).sum() / (p | r).sum())
        assert found["sensitivity"][name] == pytest.approx((p & r).sum() / r.sum())
        assert found["precision"][name] == pytest.approx((p & r).sum() / p.sum())
        assert found["volume_error_ml"][name] == pytest.approx(0.5 * (int(p.sum()) - int(r.sum())))
        assert found["reference_voxels"][name] == r.sum()
        assert found["prediction_voxels"][name] == p.sum()
    with pytest.raises(ValueError, match="holds classes 0 to 4; they must be in the range 0 to 3"):
        confusion_matrix(*(torch.from_numpy(x) for x in (prediction % 4, reference)), 4)


def test_a_case_of_nothing_but_ignored_voxels_has_no_value():
    label = torch.full((4, 4, 4), 2, dtype=torch.uint8)
    found = overlap_metrics(confusion_matrix(torch.ones_like(label), label, 2, ignore=2), ["a"], 1.0)
    assert math.isnan(found["dice"]["a"])
    assert found["prediction_voxels"] == {"a": 0}
