"""Post-processing is chosen where it helps, and only there."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipelines.evaluation.postprocess_choice import choose_postprocessing
from transforms.io.writers import write_label

LABELS = {0: "background", 1: "liver", 2: "vessels"}


def save(path, array):
    write_label(path, MetaTensor(torch.from_numpy(array)[None], affine=torch.eye(4)))
    return path


@pytest.fixture
def pairs(tmp_path):
    """The liver is predicted with pieces elsewhere; of the vessels there really are two."""
    found = []
    for case in range(3):
        truth = np.zeros((24, 24, 12), np.uint8)
        truth[4:12, 4:12, 2:9] = 1
        truth[16:18, 2:20, 5] = 2
        truth[20:22, 2 : 20 - case, 5] = 2
        predicted = truth.copy()
        predicted[13:15, 20:23, 9:11] = 1
        found.append(
            (save(tmp_path / f"p{case}.nii.gz", predicted), save(tmp_path / f"r{case}.nii.gz", truth))
        )
    return found


def test_the_largest_piece_of_the_class_whose_pieces_are_wrong(pairs):
    choice = choose_postprocessing(pairs, LABELS)
    assert choice.postprocessing == {"largest_component": ["liver"]}
    assert choice.before["liver"] < choice.after["liver"] == pytest.approx(1.0)
    assert choice.after["vessels"] == choice.before["vessels"] == pytest.approx(1.0)


def test_nothing_helps_a_perfect_prediction(pairs):
    choice = choose_postprocessing([(truth, truth) for _, truth in pairs], LABELS)
    assert choice.postprocessing == {}
    assert choice.after == choice.before


def test_holes_and_pieces_far_from_everything(tmp_path):
    truth = np.zeros((20, 20, 10), np.uint8)
    truth[3:12, 3:12, 2:8] = 1
    truth[12:14, 3:12, 2:8] = 2
    predicted = truth.copy()
    predicted[6, 6, 5] = 0
    predicted[18, 18, 8] = 1
    predicted[18, 1, 1] = 2
    pair = (save(tmp_path / "p.nii.gz", predicted), save(tmp_path / "r.nii.gz", truth))
    choice = choose_postprocessing([pair], LABELS)
    assert choice.postprocessing == {"largest_foreground": True, "fill_holes": ["liver"]}
    assert choice.after == {"liver": pytest.approx(1.0), "vessels": pytest.approx(1.0)}


def test_of_regions_all_classes_together_where_they_are_annotated(tmp_path):
    """The ring of a tumour loses its middle, which is another class, and would lose pieces of itself."""
    truth = np.zeros((20, 20, 10), np.uint8)
    truth[3:12, 3:12, 2:8] = 1
    truth[3:12, 6:9, 2:8] = 2  # cuts the ring in two pieces
    predicted = truth.copy()
    predicted[18, 18, 8] = 1
    truth[18:, :, :4] = 3
    predicted[19, 1, 1] = 2  # where nobody looked
    pair = (save(tmp_path / "p.nii.gz", predicted), save(tmp_path / "r.nii.gz", truth))
    regions = {"tumour": (1, 2), "core": (2,)}
    choice = choose_postprocessing([pair], LABELS, regions, ignore=3)
    assert choice.postprocessing == {"largest_foreground": True}
    voxels = 9 * 9 * 6
    assert choice.before == {
        "tumour": pytest.approx(2 * voxels / (2 * voxels + 1)),
        "core": pytest.approx(1.0),
    }
    assert choice.after == {"tumour": pytest.approx(1.0), "core": pytest.approx(1.0)}
