"""Postprocessing within a list of MONAI transforms."""

import pytest
import torch
from monai.data import MetaTensor

from pipelines.inference.postprocess import Postprocess, PostprocessError
from pipelines.inference.postprocess_transform import Postprocessd

LABELS = {0: "background", 1: "liver"}


def test_a_label_map_is_changed_and_keeps_its_meta_data():
    labels = MetaTensor(
        torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 1]]], dtype=torch.uint8), meta={"filename_or_obj": "ct.nii.gz"}
    )
    after = Postprocessd("pred", Postprocess(largest_component=["liver"]), LABELS)({"pred": labels, "id": 7})
    assert after["pred"].tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]
    assert after["pred"].meta["filename_or_obj"] == "ct.nii.gz"
    assert after["id"] == 7


def test_an_unknown_class_is_refused_before_the_first_image():
    with pytest.raises(PostprocessError, match="'spleen', which the model does not have"):
        Postprocessd("pred", Postprocess(fill_holes=["spleen"]), LABELS)
