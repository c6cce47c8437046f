"""Values that no CT in HU has, and real CTs of every kind that must not be taken for one."""

import json
import re

import numpy as np
import pytest
from scipy import ndimage

from transforms.hounsfield import not_hounsfield
from transforms.io.readers import image_array

SIZE = 48


def chest(noise=20.0, seed=0):
    """A body with lungs, fat and bone in air, smooth edges, (1, 48, 48, 48) float64."""
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 3, indexing="ij"))

    def inside(centre, radii):
        return (((axes - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(0) < 1

    values = np.full((SIZE,) * 3, -1000.0)
    values[inside((0, 0, 0), (0.85, 0.7, 2))] = -100
    values[inside((0, 0, 0), (0.8, 0.65, 2))] = 45
    values[inside((-0.4, 0, 0), (0.25, 0.4, 0.55)) | inside((0.4, 0, 0), (0.3, 0.4, 0.6))] = -850
    values[inside((0, -0.45, 0), (0.12, 0.1, 2))] = 600
    values = ndimage.gaussian_filter(values, 0.6)
    return (values + np.random.default_rng(seed).normal(0, noise, values.shape))[None]


def circle(volume, padding):
    """The same with padding outside of a round field of view."""
    x, y = np.mgrid[: volume.shape[1], : volume.shape[2]]
    middle = (volume.shape[1] - 1) / 2
    outside = (x - middle) ** 2 + (y - middle) ** 2 > (middle * 0.97) ** 2
    return np.where(outside[None, :, :, None], padding, volume)


def without_air(ct):
    """A part between the lungs."""
    return ct[:, 22:25, 11:37]


def scaled(low, high, top):
    return lambda hu: (np.clip(hu, low, high) - low) / (high - low) * top


WRONG = {
    "0..1": (scaled(-1000, 1000, 1), "run from 0 to (1|0.[89]\\d*) only"),
    "-1..1": (lambda hu: scaled(-1000, 1000, 2)(hu) - 1, "run from -1 to (1|0.[6-9]\\d*) only"),
    "minimum to maximum as 0..1": (
        lambda hu: (hu - hu.min()) / np.ptp(hu),
        "run from 0 to (1|0.[89]\\d*) only",
    ),
    "padded 0..1": (lambda hu: circle(scaled(-1000, 1000, 1)(hu), -1000), "apart from padding of -1000"),
    "0..255": (lambda hu: scaled(-1000, 1000, 255)(hu).round(), "8-bit picture"),
    "0..255 unclipped": (lambda hu: (hu + 1000) / 2000 * 255, "8-bit picture"),
    "0..255 of an abdomen": (lambda hu: scaled(-160, 240, 255)(hu).round(), "8-bit picture"),
    "normalised": (lambda hu: (hu - hu.mean()) / hu.std(), "normalised to a mean of 0"),
    "+1024": (lambda hu: hu + 1024, "seems to be HU . 1024"),
    "+1024 from 0 on": (lambda hu: np.clip(hu + 1024, 0, 4095), "seems to be HU . 1024"),
    "+1000": (lambda hu: hu + 1000, "seems to be HU . 1024"),
    "+1024, padded": (lambda hu: circle(hu + 1024, -2000), "seems to be HU . 1024"),
    "+1024, padded before": (lambda hu: circle(hu, -2000) + 1024, "seems to be HU . 1024"),
    "+32768": (lambda hu: hu + 32768, "run from|HU . 32768"),
    "16 bits": (lambda hu: (hu - hu.min()) / np.ptp(hu) * 65535, "run from 0 to 65535"),
    "a part without air of HU + 1024": (lambda hu: without_air(hu) + 1024, "seems to be HU"),
    "zeros": (lambda hu: hu * 0, "every voxel is 0"),
    "constant": (lambda hu: hu * 0 + 40, "every voxel is 40"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("noise", [3, 20])
def test_values_of_another_kind_are_told(name, noise):
    change, reason = WRONG[name]
    found = not_hounsfield(change(chest(noise)).astype(np.float32))
    assert found
    assert re.search(reason, found)


def parts(ct):
    """Whole, cropped in many ways, padded, resampled, and with metal in it."""
    random = np.random.default_rng(0)
    yield "whole", ct
    for padding in (-2000, -2048, -3024, -32768):
        padded = circle(ct, padding)
        yield f"padded with {padding}", padded
        yield f"padded with {padding} and resampled", ndimage.zoom(padded, (1, 0.8, 0.8, 0.8), order=1)
    metal = ct.astype(np.float32).copy()
    middle = [n // 2 for n in metal.shape[1:]]
    at = tuple(slice(m - 3, m + 3) for m in middle)
    metal[(slice(None), *at)] = 30000
    metal[:, middle[0] + 3 : middle[0] + 8, at[1], at[2]] -= 3000
    yield "metal", metal
    yield "masked with air", np.where(ct > -300, ct, -1000)
    yield "masked with 0", np.where(ct > -300, ct, 0)
    for size in (12, 24, 36):
        for _ in range(12):
            start = [int(random.integers(0, n - size + 1)) for n in ct.shape[1:]]
            part = ct[(slice(None), *(slice(a, a + size) for a in start))]
            if part.max() > -900:  # nothing but air is no CT of anything
                yield f"{size} voxels from {start}", part


@pytest.mark.parametrize("levels", [(-1000, -500, 200), (-1000, -500, 200, 700), (-1000, 0, 40, 1000)])
def test_phantoms_of_a_few_values_are_judged_too(levels):
    phantom = np.array(levels, np.int16)[np.arange(1000) % len(levels)].reshape(1, 10, 10, 10)
    assert not_hounsfield(phantom) == ""
    assert "seems to be HU + 1024" in not_hounsfield(phantom + np.int16(1024))
    assert "from 0 to 1 only" in not_hounsfield(scaled(-1000, max(levels), 1)(phantom))
    assert "8-bit picture" in not_hounsfield(scaled(-1000, max(levels), 255)(phantom))


@pytest.mark.parametrize(
    "levels", [(-1000, 40), (-1000, 700), (-1000, 700, 1200), (-1000, 40, 700), (200, 700), (40, 45)]
)
def test_phantoms_in_hounsfield_units_are_left_in_peace(levels):
    phantom = np.array(levels, np.int16)[np.arange(1000) % len(levels)].reshape(1, 10, 10, 10)
    assert not_hounsfield(phantom) == ""


@pytest.mark.parametrize("noise", [5, 20])
def test_a_ct_in_hounsfield_units_is_left_in_peace(noise):
    ct = np.rint(chest(noise)).astype(np.int16)
    assert {name: found for name, part in parts(ct) if (found := not_hounsfield(part))} == {}
    assert without_air(ct).min() > -400
    assert not_hounsfield(without_air(ct)) == ""


def test_real_cts_are_left_in_peace(shared_data):
    root = shared_data / "openkbp"
    listed = json.loads((root / "dataset.json").read_text())["training"]
    for entry in listed[::30]:
        ct = image_array(root / entry["image"])[0]
        assert {name: found for name, part in parts(ct) if (found := not_hounsfield(part))} == {}, entry[
            "image"
        ]
