"""Whole volumes through the network and back to the grid of the file, with their metrics."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from PIL import Image
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator, annotated
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.metrics.centerlines import cldice
from pipelines.metrics.curves import area_under_roc
from pipelines.metrics.names import METRICS, OCCASIONAL_METRICS
from tests.pipelines.evaluators import evaluator
from tests.pipelines.small import OBLIQUE, write_ct
from transforms.io.readers import ImageError, read_label
from transforms.preprocess import Preprocess
from transforms.spatial.restore import NonFiniteError


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("roi_size", [(8, 8, 8), (8, 8), (64, 64, 64)])
def test_who_knows_the_answer_has_dice_one_on_the_files_grid(tmp_path, roi_size, precision):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE), write_ct(tmp_path, "b", classes=(2,), affine=OBLIQUE)]
    saved = {}
    engine = evaluator(
        data,
        Preprocess(crop_above=-990, crop_margin=1),
        classes=4,
        roi_size=roi_size,
        precision=precision,
        on_prediction=lambda item, labels: saved.update({item["case"]: labels}),
    )
    engine.run(7)
    assert [case["case"] for case in engine.state.cases] == ["a", "b"]
    assert engine.state.cases[0]["dice"]["lung"] == engine.state.cases[0]["dice"]["liver"] == 1.0
    assert engine.state.cases[1]["dice"]["liver"] == 1.0
    assert math.isnan(engine.state.cases[1]["dice"]["lung"])
    assert all(math.isnan(case["dice"]["bone"]) for case in engine.state.cases)
    assert engine.state.epoch == 7
    for case in data:
        reference = read_label(case["label"])
        assert torch.equal(saved[case["case"]].as_tensor(), reference.as_tensor())
        np.testing.assert_array_equal(saved[case["case"]].affine, reference.affine)
    confusion = engine.state.confusion
    assert confusion.dtype == torch.int64
    assert confusion.shape == (4, 4)
    assert torch.equal(confusion, confusion.diag().diag()), "nothing is mistaken"
    maps = [read_label(case["label"]) for case in data]
    assert confusion.diag().tolist() == [sum(int((m == value).sum()) for m in maps) for value in range(4)]
    engine.run(8)
    assert len(engine.state.cases) == 2, "a second run starts its list anew"
    assert torch.equal(engine.state.confusion, confusion)


def test_surfaces_are_measured_where_a_tolerance_is_given(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    seen = []
    options = {"on_score": lambda item, labels, record: seen.append((item["case"], labels.shape, record))}
    engine = evaluator(
        data, Preprocess(spacing=1.6), surface_tolerance={"lung": 1.0, "liver": 2.0}, **options
    )
    engine.run()
    (record,) = engine.state.cases
    assert METRICS.keys() - OCCASIONAL_METRICS < set(record)
    assert "cldice" not in record
    assert 0 < record["hd95_mm"]["liver"] < 3
    assert record["nsd"]["liver"] > 0.9
    assert seen == [("a", (1, *read_label(data[0]["label"]).shape[1:]), record)]
    plain = evaluator(data, Preprocess(spacing=1.6))
    plain.run()
    assert "hd95_mm" not in plain.state.cases[0]
    assert plain.state.cases[0]["dice"] == record["dice"]
    with pytest.raises(ValueError, match="no value for the class 'liver'"):
        evaluator(data, Preprocess(), surface_tolerance={"lung": 1.0})


def test_a_coarser_network_grid_still_scores_on_the_files_grid(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=1.6))
    engine.run()
    scores = engine.state.cases[0]["dice"]
    assert 0.8 < scores["liver"] < 1.0
    assert engine.state.output["pred"].shape == (1, *read_label(data[0]["label"]).shape[1:])


def test_the_label_of_another_image_is_refused(tmp_path):
    data = [write_ct(tmp_path, "a"), write_ct(tmp_path, "b", affine=np.diag([1, 1, 2.0, 1]))]
    data[0]["label"] = data[1]["label"]
    with pytest.raises(ImageError, match="the label of case a"):
        evaluator(data[:1], Preprocess()).run()


def test_around_a_small_image_the_network_sees_what_it_saw_in_training(tmp_path):
    """Normalised images have no fixed value of air, so the window pads with what the case's loader says."""
    data = [write_ct(tmp_path, "a", shape=(6, 6, 6))]
    preprocess = Preprocess(window=None)
    engine = evaluator(data, preprocess, roi_size=(12, 12, 12))
    seen = []
    engine.network.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, 0, 0, 0, 0].item()))
    engine.run()
    intensity = preprocess.image(data[0]["image"]).intensity
    assert seen == pytest.approx(preprocess.padding_value(intensity))
    assert seen[0] != -1.0


def test_around_a_small_image_each_channel_has_its_own_padding(tmp_path):
    data = [write_ct(tmp_path, "a", shape=(6, 6, 6))]
    data[0]["image"] = [data[0]["image"], write_ct(tmp_path, "b", shape=(6, 6, 6))["image"]]
    preprocess = Preprocess(channels=2, normalization=["CT", "MR"])
    seen = []

    def network(windows):
        seen.append(windows[0, :, 0, 0, 0].tolist())
        return windows

    item = VolumeDataset(data, preprocess)[0]
    list(SlidingWindow((12, 12, 12)).rows(item["image"], network, cval=item["padding"]))
    assert seen == [pytest.approx(item["padding"])]
    assert item["padding"][0] == -1.0 != item["padding"][1]


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_probabilities_come_with_the_labels(tmp_path, spacing):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=spacing))
    item = VolumeDataset(data, engine.preprocess)[0]
    labels, maps = engine.predict_with_probabilities(item)
    assert torch.equal(labels.as_tensor(), engine.predict(item).as_tensor())
    assert maps.shape == (3, *labels.shape[1:])
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(0).as_tensor(), torch.ones(labels.shape[1:]))
    assert torch.equal(maps.argmax(0).as_tensor(), labels[0].as_tensor().long())
    np.testing.assert_array_equal(maps.affine, labels.affine)


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_confidence_comes_with_the_labels_and_changes_none(tmp_path, spacing):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=spacing), classes=4, confidence_factors={"liver": 0.5})
    item = VolumeDataset(data, engine.preprocess)[0]
    found = engine.segment(item)
    assert torch.equal(found.labels.as_tensor(), engine.predict(item).as_tensor())
    assert found.probabilities is None
    assert 0.9 < found.confidence.confidence["lung"] <= 1
    assert found.confidence.confidence["liver"] == pytest.approx(0.5, abs=0.05)
    assert found.confidence.confidence["bone"] is None
    engine.run()
    assert engine.state.cases[0]["confidence"]["lung"] == found.confidence.confidence["lung"]
    assert math.isnan(engine.state.cases[0]["surface_entropy"]["bone"])
    engine.confidence = False
    assert engine.segment(item, probabilities=True).confidence is None


def test_any_inferer_of_monai_does(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    own = evaluator(data, Preprocess(spacing=1.7))
    item = VolumeDataset(data, own.preprocess)[0]
    expected = own.predict(item)
    own.inferer = SlidingWindowInferer((8, 8, 8), 2, 0.5, mode="gaussian", cval=-1.0)
    assert torch.equal(own.predict(item).as_tensor(), expected.as_tensor())


def test_a_network_of_other_classes_is_named(tmp_path):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess())
    engine.class_names.append("bone")
    with pytest.raises(ValueError, match="has 3 output channels, but there are 4 classes"):
        engine.run()


def test_one_channel_of_foreground_is_no_set_of_classes(tmp_path):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess(), classes=2)
    engine.network = torch.nn.Conv3d(1, 1, 1)
    with pytest.raises(
        ValueError, match=r"has 1 output channels, but there are 2 classes.*needs an output channel"
    ):
        engine.run()


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_a_network_that_overflows_gives_no_labels(tmp_path, spacing):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess(spacing=spacing), precision="fp16")
    engine.network = torch.nn.Conv3d(1, 3, 1)
    torch.nn.init.constant_(engine.network.bias, 1e6)
    with pytest.raises(NonFiniteError, match="--precision fp32"):
        engine.run()


def test_a_tilted_ct_is_restored_alike_in_every_precision(tmp_path):
    """Its rows are so long that a place along them is wrong by a voxel where it has only 8 bits."""
    affine = np.diag([0.9, 0.8, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(20))
    data = [write_ct(tmp_path, "a", shape=(20, 300, 16), affine=affine)]
    engine = evaluator(data, Preprocess(spacing=1.5), roi_size=(16, 64, 16))
    item = VolumeDataset(data, engine.preprocess)[0]
    expected = engine.predict(item)
    for precision in ("bf16", "fp16"):
        engine.precision = precision
        assert torch.equal(engine.predict(item).as_tensor(), expected.as_tensor())


def test_images_without_a_label_are_predicted_and_not_scored(tmp_path):
    data = [write_ct(tmp_path, "a")]
    del data[0]["label"]
    engine = evaluator(data, Preprocess())
    engine.run()
    assert engine.state.cases == []
    assert engine.state.output["pred"].unique().tolist() == [0, 1, 2]


def test_regions_are_measured_and_voxels_that_nobody_annotated_left_out(tmp_path):
    data = [write_ct(tmp_path, "a", classes=(1, 2, 3))]
    label = read_label(data[0]["label"])
    marked = label.clone()
    marked[..., :6] = 4
    marked[label == 1] = 2  # a mistake of the reference where it counts
    nib.save(nib.Nifti1Image(marked[0].numpy(), np.eye(4)), data[0]["label"])
    regions = {"whole": [1, 2, 3], "core": [2, 3], "bone": [3]}
    engine = evaluator([{**data[0], "ignore": 4}], classes=4, regions=regions, surface_tolerance=1.0)
    engine.run()
    (record,) = engine.state.cases
    counts = (marked != 4).numpy()
    for name, members in regions.items():
        p, r = (np.isin(x.numpy(), members) & counts for x in (label, marked))
        assert record["dice"][name] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
    assert record["dice"]["core"] < 1 == record["dice"]["whole"] == record["nsd"]["whole"]
    assert engine.state.confusion.sum() == counts.sum()
    assert set(annotated({"label": marked, "ignore": 4}).unique().tolist()) == set(
        marked.unique().tolist()
    ) - {4}


def pictures(folder):
    """Two pictures of a bright square, the second with a mask of its left half, on whose other half nothing counts."""
    items = []
    for index in range(2):
        label = np.zeros((24, 20), np.uint8)
        label[4 + index : 14, 5:12] = 1
        for name, array in (
            ("image", np.where(label, 180, 60)),
            ("label", label),
            ("mask", np.arange(24)[:, None] < 12),
        ):
            path = folder / f"{name}_{index}.png"
            Image.fromarray(np.broadcast_to(array, label.shape).astype(np.uint8).T).save(path)
        items.append(
            {"case": str(index), **{k: str(folder / f"{k}_{index}.png") for k in ("image", "label")}}
        )
    return [items[0], items[1] | {"mask": str(folder / "mask_1.png")}]


class Unsure(torch.nn.Module):
    """Knows the square but for what a convolution blurs, and is wrong in the right half."""

    def forward(self, x):
        value = torch.nn.functional.avg_pool2d(x[:, :1], 5, stride=1, padding=2)
        ramp = torch.linspace(-2, 2, x.shape[2]).reshape(1, 1, -1, 1)
        return torch.cat([torch.zeros_like(value), 0.5 * value + ramp], 1)


@pytest.mark.parametrize("curves", ["auto", True])
def test_pixels_of_pictures_are_measured_inside_their_masks(tmp_path, curves):
    preprocess = Preprocess(spacing=None, window=None)
    data = VolumeDataset(
        pictures(tmp_path), preprocess, labels={0: "background", 1: "square"}, field_of_view="auto"
    )
    loader = volume_loader(data)
    engine = SegEvaluator(
        "cpu",
        loader,
        Unsure(),
        preprocess,
        ["square"],
        SlidingWindow((24, 20)),
        surface_tolerance=1.0,
        curves=curves,
    )
    engine.run()
    whole, masked = engine.state.cases
    assert "field_of_view" not in whole
    assert masked["field_of_view"] == 0.5
    everything = []
    for item, record in zip(data, engine.state.cases, strict=True):
        labels, probabilities = (x.as_tensor().numpy() for x in engine.predict_with_probabilities(item))
        inside = item.get("inside", torch.ones(1, 24, 20, dtype=torch.bool)).numpy()[0]
        reference = item["label"].as_tensor().numpy()[0][inside] == 1
        everything.append((reference, labels[0][inside] == 1, probabilities[1][inside]))
        assert record["dice"]["square"] == pytest.approx(f1_score(reference, everything[-1][1]))
        assert record["specificity"]["square"] == pytest.approx(
            recall_score(~reference, everything[-1][1] == 0)
        )
        assert record["auc"]["square"] == pytest.approx(roc_auc_score(reference, everything[-1][2]), abs=1e-4)
        assert 0.5 < record["auc"]["square"] < 1
    reference, _, probability = (np.concatenate(column) for column in zip(*everything, strict=True))
    pooled = area_under_roc(engine.state.histograms[0])
    assert pooled == pytest.approx(roc_auc_score(reference, probability), abs=1e-4)
    assert int(engine.state.confusion.sum()) == int(engine.state.histograms.sum()) == 24 * 20 * 3 // 2
    engine.reset()
    assert engine.state.histograms is None


def test_a_case_that_fails_leaves_no_pixels_and_a_value_that_is_no_class_is_found_out(tmp_path):
    def refuse(item, labels, record):
        if item["case"] == "0":
            raise OSError("no space left for the picture")

    preprocess, items = Preprocess(spacing=None, window=None), pictures(tmp_path)
    label = np.asarray(Image.open(items[1]["label"])).copy()
    window = SlidingWindow((24, 20))

    def run(on_score=None):
        # No names, so that it is the evaluator that looks at the values.
        loader = volume_loader(VolumeDataset(items, preprocess, field_of_view="auto"))
        engine = SegEvaluator(
            "cpu", loader, Unsure(), preprocess, ["square"], window, curves="auto", on_score=on_score
        )
        engine.go_on = True
        engine.run()
        return engine.state

    state = run(refuse)
    assert list(state.failures) == ["0"]
    assert int(state.histograms.sum()) == int(state.confusion.sum()) == 24 * 20 // 2
    label[10, 3] = 2  # row, column: inside of the mask
    Image.fromarray(label).save(items[1]["label"])
    assert "must be in the range 0 to 1" in run().failures["1"]
    label[10, 3], label[10, 20] = 0, 2  # outside
    Image.fromarray(label).save(items[1]["label"])
    assert not run().failures


def test_centre_lines_are_measured_of_what_is_named_and_of_pictures(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=1.6), centerlines=["liver"])
    engine.run()
    (record,) = engine.state.cases
    assert 0.5 < record["cldice"]["liver"] <= 1
    assert math.isnan(record["cldice"]["lung"])
    with pytest.raises(ValueError, match="centerlines names 'nerve'; choose among lung, liver"):
        evaluator(data, Preprocess(), centerlines=["nerve"])
    engine = evaluator(data, Preprocess(spacing=1.6), centerlines="auto")
    engine.run()
    assert "cldice" not in engine.state.cases[0]
    preprocess, window = Preprocess(spacing=None, window=None), SlidingWindow((24, 20))
    loader = volume_loader(VolumeDataset(pictures(tmp_path), preprocess, field_of_view="auto"))
    engine = SegEvaluator(
        "cpu", loader, Unsure(), preprocess, ["square"], window, curves="auto", centerlines="auto"
    )
    engine.run()
    for item, record in zip(loader, engine.state.cases, strict=True):
        inside = item.get("inside", torch.ones(1, 24, 20, dtype=torch.bool)).numpy()[0]
        maps = (engine.predict(item), item["label"])
        assert record["cldice"]["square"] == cldice(*((x.as_tensor().numpy()[0] == 1) & inside for x in maps))


def test_pixels_of_a_ct_are_measured_where_asked_for(tmp_path):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, curves="auto")
    engine.run()
    assert "auc" not in engine.state.cases[0]
    engine = evaluator(data, curves=True)
    engine.run()
    assert engine.state.cases[0]["auc"] == pytest.approx({"lung": 1.0, "liver": 1.0})
    assert engine.state.cases[0]["specificity"] == {"lung": 1.0, "liver": 1.0}
    with pytest.raises(ValueError, match="curves is 'always'; give true, false or 'auto'"):
        evaluator(data, curves="always")
