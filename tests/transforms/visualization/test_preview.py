"""The preview: every structure where a radiologist looks for it, in its colour."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image

from transforms.utils.colours import colour_of
from transforms.visualization.overlay import draw_overlay
from transforms.visualization.preview import HEIGHT, LUNG, SOFT_TISSUE, draw_preview, panels

NAMES = {0: "background", 1: "right", 2: "front", 3: "top"}
SIZE, SPACING = np.array((30, 40, 20)), np.array((2.0, 1.0, 4.0))


def body():
    """On an RAS grid: class 1 is large and on the patient's right, 2 in front of it, 3 above it."""
    label = np.zeros(SIZE, np.uint8)
    label[18:28, 10:22, 5:12] = 1
    label[18:28, 28:36, 5:12] = 2
    label[18:28, 10:22, 15:18] = 3
    image = np.full(SIZE, -1000, np.int16)
    image[4:, 4:, 2:] = 40
    image[label > 0] = 140
    return image, label


def stored(array, axes, flips):
    """The same volume as a file with other axes holds it, and its affine."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-30, -20, -40)
    array = array.transpose(axes)
    affine = affine[:, [*axes, 3]]
    for axis in range(3):
        if flips[axis]:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(affine))


def centre(mask):
    return np.argwhere(mask).mean(0)


@settings(max_examples=40)
@given(axes=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_planes_are_anatomical_however_the_file_is_stored(axes, flips):
    image, label = body()
    axial, coronal, sagittal = panels(stored(image, axes, flips), stored(label, axes, flips))
    rows, columns = axial.label.shape
    assert (rows, columns) == (40, 30)
    assert centre(axial.label == 1)[1] < columns / 2, "the patient's right is on the left"
    assert centre(axial.label == 2)[0] < centre(axial.label == 1)[0], "anterior is at the top"
    assert coronal.label.shape == (20, 30)
    assert centre(coronal.label == 1)[1] < columns / 2
    assert centre(coronal.label == 3)[0] < centre(coronal.label == 1)[0], "superior is at the top"
    assert sagittal.label.shape == (20, 40)
    assert centre(sagittal.label == 2)[1] < centre(sagittal.label == 1)[1], "anterior is on the left"
    assert centre(sagittal.label == 3)[0] < centre(sagittal.label == 1)[0]
    assert [panel.size for panel in (axial, coronal, sagittal)] == [(60, 40), (60, 80), (40, 80)]
    assert [panel.letters for panel in (axial, coronal, sagittal)] == [
        ("R", "L", "A", "P"),
        ("R", "L", "S", "I"),
        ("A", "P", "S", "I"),
    ]
    for panel in (axial, coronal, sagittal):
        assert (panel.image[panel.label > 0] >= 40).all(), "image and label lie on each other"


def colour_at(pixels, colour):
    """Where the contour of a class is, (rows, columns)."""
    return np.argwhere((pixels == np.array(colour)).all(-1))


def test_pixels_of_the_picture(tmp_path):
    image, label = (stored(array, (1, 0, 2), (True, False, True)) for array in body())
    path = draw_preview(tmp_path / "p.png", image, label, NAMES, {"right": 6.72}, title="case 7")
    pixels = np.asarray(Image.open(path))
    assert pixels.dtype == np.uint8
    top, left, width = 54, 14, round(60 * HEIGHT / 40)
    axial = pixels[top : top + HEIGHT, left : left + width]
    scale = HEIGHT / 40  # pixels per mm
    edge = colour_at(axial, colour_of(1))
    # Class 1 spans x 18..28 (2 mm each) from the left of the patient and y 10..22 from behind.
    np.testing.assert_allclose(edge.min(0), [(40 - 22) * scale, (30 - 28) * 2 * scale], atol=1.5)
    np.testing.assert_allclose(edge.max(0), [(40 - 10) * scale - 1, (30 - 18) * 2 * scale - 1], atol=1.5)
    inside = axial[round((40 - 16) * scale), round((30 - 23) * 2 * scale)]
    expected = 0.65 * 255 * (140 - SOFT_TISSUE[0]) / (SOFT_TISSUE[1] - SOFT_TISSUE[0]) + 0.35 * np.array(
        colour_of(1)
    )
    np.testing.assert_allclose(inside, expected, atol=2)
    # What is not labelled keeps its grey; the air is black.
    assert len(set(axial[round(20 * scale), round(50 * scale)])) == 1
    assert (axial[-3, -3] == 0).all()
    # The legend: a box in the colour of each class that is there.
    for value in (1, 2, 3):
        assert len(colour_at(pixels[top + HEIGHT :], colour_of(value))) >= 100


def test_air_is_shown_in_a_lung_window(tmp_path):
    image, label = body()
    image[label > 0] = -850
    volume = stored(image, (0, 1, 2), (False,) * 3)
    draw_preview(tmp_path / "p.png", volume, stored(label, (0, 1, 2), (False,) * 3), NAMES)
    pixels = np.asarray(Image.open(tmp_path / "p.png"))
    grey = 255 * (-850 - LUNG[0]) / (LUNG[1] - LUNG[0])
    inside = pixels[54 + round(24 * HEIGHT / 40), 14 + round(14 * HEIGHT / 40)]
    np.testing.assert_allclose(inside, 0.65 * grey + 0.35 * np.array(colour_of(1)), atol=2)


def test_nothing_found_is_said(tmp_path):
    image = stored(body()[0], (0, 1, 2), (False,) * 3)
    empty = MetaTensor(torch.zeros(image.shape, dtype=torch.uint8), affine=image.affine)
    draw_preview(tmp_path / "p.png", image, empty, NAMES)
    with_text = np.asarray(Image.open(tmp_path / "p.png"))
    assert with_text[54 + HEIGHT + 14 :, :200].max() > 200
    assert panels(image, empty)[0].image.shape == (40, 30)


@pytest.mark.parametrize("ct", [False, True])
def test_a_picture_is_one_panel(tmp_path, ct):
    values = np.tile(np.linspace(0, 255, 60), (80, 1)).astype(np.float32)
    label = np.zeros((80, 60), np.uint8)
    label[:20] = 1
    given = [MetaTensor(torch.from_numpy(array)[None]) for array in (values, label)]
    (panel,) = panels(*given)
    assert panel.label.shape == (60, 80)
    assert (panel.label[:, :20] == 1).all()
    assert panel.letters == ()
    draw_preview(tmp_path / "p.png", *given, {0: "background", 1: "cell"}, ct=ct)
    assert len(colour_at(np.asarray(Image.open(tmp_path / "p.png")), colour_of(1))) > 300


@pytest.mark.parametrize("draw", ["preview", "overlay"])
def test_a_picture_in_colour_stays_so(tmp_path, draw):
    """Red grows to the right, green downwards; no structure covers them."""
    red, green = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 60), indexing="ij")
    image = MetaTensor(torch.from_numpy(np.stack([red, green, 0 * red]).astype(np.float32)))
    label = MetaTensor(torch.zeros(1, 80, 60, dtype=torch.uint8))
    if draw == "preview":
        draw_preview(tmp_path / "p.png", image, label, {0: "background", 1: "cell"}, ct=False)
        pixels = np.asarray(Image.open(tmp_path / "p.png"))
    else:
        pixels = draw_overlay(image, label, None, {0: "background", 1: "cell"}, ct=False)
    shown = pixels[54 : 54 + HEIGHT, 14 : 14 + round(HEIGHT * 80 / 60)].astype(int)
    left, right, top, bottom = shown[200, 10], shown[200, -10], shown[10, 300], shown[-10, 300]
    assert right[0] - left[0] > 200
    assert bottom[1] - top[1] > 200
    assert shown[..., 2].max() < 10
