"""Millilitres per class, and their table."""

import csv

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipelines.metrics.volumes import measure, write_volumes
from transforms.spatial.geometry import voxel_ml

NAMES = {0: "background", 1: "lung", 2: "liver, left"}


def test_volumes_are_voxels_times_the_determinant(tmp_path):
    array = np.zeros((1, 4, 5, 6), np.uint8)
    array[0, :2, :3, 0] = 1
    affine = torch.tensor([[0, -1.5, 0, 9], [0.8, 0, 0.4, 8], [0, 0, 2.5, -900], [0, 0, 0, 1.0]]).double()
    found = measure(MetaTensor(torch.from_numpy(array), affine=affine), NAMES)
    assert found["lung"]["voxels"] == 6
    assert found["lung"]["ml"] == pytest.approx(6 * 1.5 * 0.8 * 2.5 / 1000)
    assert found["liver, left"] == {"voxels": 0, "ml": 0.0}
    assert list(found) == ["lung", "liver, left"]
    sure = {"lung": 0.25, "liver, left": None}
    write_volumes(tmp_path / "volumes.csv", [{"case": "a", "volumes": found, "confidence": sure}])
    with (tmp_path / "volumes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {
            "case": "a",
            "class": "lung",
            "ml": "0.018",
            "voxels": "6",
            "confidence": "0.250000",
            "surface_entropy": "",
            "pass_agreement": "",
        },
        {
            "case": "a",
            "class": "liver, left",
            "ml": "0",
            "voxels": "0",
            "confidence": "",
            "surface_entropy": "",
            "pass_agreement": "",
        },
    ]


def test_a_picture_has_voxels_only():
    picture = MetaTensor(torch.ones((1, 3, 4), dtype=torch.uint8))
    assert voxel_ml(picture.affine, 2) is None
    assert measure(picture, {0: "background", 1: "cell"}) == {"cell": {"voxels": 12, "ml": None}}


def test_regions_that_overlap_count_their_voxels_each():
    array = torch.tensor([[[0, 1, 1, 2, 3]]], dtype=torch.uint8)
    regions = {"whole": (1, 2, 3), "core": (2, 3)}
    found = measure(MetaTensor(array), {0: "background", 1: "a", 2: "b", 3: "c"}, regions)
    assert found == {"whole": {"voxels": 4, "ml": None}, "core": {"voxels": 2, "ml": None}}
