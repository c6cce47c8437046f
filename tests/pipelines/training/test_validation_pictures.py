"""Pictures of a validation: of the right case, in the right place, and never in a training's way."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.training import validation_pictures as module
from pipelines.training.validation_pictures import Snapshots, decoded
from tests.pipelines import small
from transforms.io.readers import Header, read_image, read_label
from transforms.preprocess import Preprocess
from transforms.visualization.overlay import draw_overlay

LABELS = {0: "background", 1: "lung", 2: "liver"}


@pytest.fixture
def cases(tmp_path):
    """One on a straight grid and one on an oblique one, far away and stored along other axes."""
    return [
        small.write_ct(tmp_path, "a"),
        small.write_ct(tmp_path, "b", affine=small.OBLIQUE),
        small.write_ct(tmp_path, "c"),
    ]


def evaluated(cases, preprocess, drawn):
    evaluator = SegEvaluator(
        device="cpu",
        val_data_loader=volume_loader(VolumeDataset(cases, preprocess, labels=LABELS)),
        network=small.Oracle(3),
        preprocess=preprocess,
        class_names=["lung", "liver"],
        inferer=SlidingWindow((12, 12, 12)),
    )
    pictures, predictions = Snapshots(drawn, LABELS, preprocess), {}
    evaluator.on_prediction = lambda item, labels: predictions.update({item["case"]: labels})
    pictures.attach(evaluator)
    evaluator.run()
    return evaluator, pictures, predictions


@pytest.mark.parametrize("intensity", [{"window": (-1000, 1000)}, {"window": None}])
def test_the_picture_is_that_of_the_file(cases, intensity):
    """On the file's own spacing the prepared image holds the file's voxels, so the pictures must agree."""
    evaluator, pictures, predictions = evaluated(cases, Preprocess(**intensity), ["a", "b"])
    found = pictures.take()
    assert list(found) == ["a", "b"]
    assert pictures.take() == {}
    for case, record in zip(cases[:2], evaluator.state.cases, strict=False):
        image = read_image(Path(case["image"]))
        label = read_label(
            Path(case["label"]), Header(tuple(image.shape[1:]), 1, image.affine.numpy()), LABELS
        )
        ct = intensity["window"] is not None
        expected = draw_overlay(
            image, predictions[case["case"]], label, LABELS, case["case"], record["dice"], ct=ct
        )
        picture = decoded(found[case["case"]])
        assert picture.shape == expected.shape
        # Below the planes and above them: without a window, the numbers of the heading are deviations.
        assert np.abs(picture[54:].astype(int) - expected[54:].astype(int)).max() <= 3


def test_a_picture_that_fails_does_not_end_a_validation(cases, monkeypatch, caplog):
    def fail(*arguments, **named):
        raise MemoryError("no room for a picture")

    monkeypatch.setattr(module, "draw_overlay", fail)
    with caplog.at_level(logging.WARNING):
        evaluator, pictures, _ = evaluated(cases, Preprocess(), ["a"])
    assert len(evaluator.state.cases) == 3
    assert pictures.take() == {}
    assert "no picture of case a: MemoryError" in caplog.text


def test_pictures_are_png(cases):
    _, pictures, _ = evaluated(cases[:1], Preprocess(), ["a"])
    stored = pictures.take()["a"]
    opened = Image.open(io.BytesIO(stored))
    assert opened.format == "PNG"
    assert opened.size == decoded(stored).shape[1::-1]
    assert torch.from_numpy(decoded(stored).copy()).dtype == torch.uint8
