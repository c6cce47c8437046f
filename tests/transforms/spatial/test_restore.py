"""Row by row and only at the borders, yet the same as interpolating every probability map at full size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from tests.transforms.spatial.grids import labels_from_probabilities
from transforms.spatial.geometry import GeometryError, cropped, from_oriented, orient, resampled
from transforms.spatial.resample import resample
from transforms.spatial.restore import NonFiniteError, Restorer, slab_axis

SETTINGS = settings(max_examples=40, derandomize=True)


def naive_probabilities(probabilities, geometry):
    """Every map at full size, with torch's own interpolation."""
    mode = "trilinear" if geometry.spatial_dims == 3 else "bilinear"
    full = F.interpolate(probabilities[None].float(), geometry.cropped_shape, mode=mode, align_corners=False)[
        0
    ]
    oriented = torch.zeros(len(probabilities), *geometry.oriented_shape)
    oriented[0] = 1
    oriented[(slice(None), *(slice(a, b) for a, b in geometry.crop))] = full
    return from_oriented(oriented, geometry)


def naive(probabilities, geometry):
    return naive_probabilities(probabilities, geometry).argmax(0)[None]


def smooth(classes, grid, seed):
    """Probabilities with regions, as a network makes them: most voxels lie inside one."""
    noise = torch.randn(
        classes, *(max(2, n // 4) for n in grid), generator=torch.Generator().manual_seed(seed)
    )
    return torch.softmax(4 * resample(noise, grid), 0)


def assert_equal_but_ties(result, probabilities, geometry):
    """The classes differ only where the two largest probabilities are equal up to rounding."""
    maps = naive_probabilities(probabilities, geometry)
    chosen = maps.gather(0, result.long())
    torch.testing.assert_close(chosen[0], maps.max(0).values, atol=2e-6, rtol=0)
    assert (result.long() == maps.argmax(0)).float().mean() > 0.999


AFFINE = np.array([[0, -1.0, 0, 30], [0, 0, 1.2, -7], [-1.5, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("spacing", [None, 2.0, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_restored_labels_equal_the_naive_way(spacing, axis, rows, kind):
    geometry = orient((13, 11, 12), AFFINE)
    crop = tuple((1, n - 2) for n in geometry.oriented_shape)
    geometry = resampled(cropped(geometry, crop), spacing)
    generator = torch.Generator().manual_seed(3)
    maps = (
        smooth(4, geometry.grid, 3)
        if kind == "smooth"
        else torch.rand(4, *geometry.grid, generator=generator)
    )
    restorer = Restorer(geometry, 4, axis)
    assert restorer.interpolates == (spacing is not None)
    for part in maps.split(rows, axis + 1):
        restorer.push(part)
    result = restorer.labels()
    assert result.dtype == torch.uint8
    assert result.shape == (1, 13, 11, 12)
    assert_equal_but_ties(result, maps, geometry)


@SETTINGS
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.floats(0.3, 3.0)] * 3),
    st.integers(0, 2),
    st.integers(1, 9),
    st.integers(2, 6),
    st.integers(0, 1000),
)
def test_any_grid_any_rows(shape, spacing, axis, rows, classes, seed):
    geometry = resampled(orient(shape, np.diag([1.0, -1.0, 1.0, 1.0])), spacing)
    maps = smooth(classes, geometry.grid, seed)
    restorer = Restorer(geometry, classes, axis, keep_probabilities=True)
    for part in maps.split(rows, axis + 1):
        restorer.push(part)
    torch.testing.assert_close(
        restorer.probabilities(), naive_probabilities(maps, geometry), atol=1e-5, rtol=0
    )
    assert_equal_but_ties(restorer.labels(), maps, geometry)


@pytest.mark.parametrize(("classes", "dtype"), [(2, torch.uint8), (256, torch.uint8), (300, torch.uint16)])
@pytest.mark.parametrize("signs", [(-1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (-1.0, -1.0, -1.0)])
def test_restored_labels_of_many_classes(classes, dtype, signs):
    affine = np.diag([*signs, 1.0])  # so that uint16 has to be reversed too
    geometry = resampled(orient((9, 8, 4), affine), 2.0)
    probabilities = torch.rand(classes, *geometry.grid, generator=torch.Generator().manual_seed(4))
    result = labels_from_probabilities(probabilities, geometry)
    assert result.dtype == dtype
    assert torch.equal(result.long(), naive(probabilities, geometry))


def test_a_picture_is_restored():
    geometry = resampled(orient((10, 14), np.eye(4)), 2.0)
    probabilities = torch.rand(3, *geometry.grid, generator=torch.Generator().manual_seed(5))
    assert torch.equal(
        labels_from_probabilities(probabilities, geometry).long(), naive(probabilities, geometry)
    )


def test_only_the_rows_that_are_needed_are_kept():
    geometry = resampled(orient((40, 10, 10), np.eye(4)), 2.0)
    restorer = Restorer(geometry, 3, axis=0)
    for part in smooth(3, geometry.grid, 0).split(2, 1):
        restorer.push(part)
        assert len(restorer._values) <= 4


@pytest.mark.parametrize("spacing", [None, 2.0])
def test_logits_come_with_their_softmax(spacing, monkeypatch):
    monkeypatch.setattr("transforms.spatial.restore.CHUNK_VALUES", 100)
    geometry = resampled(orient((13, 11, 12), AFFINE), spacing)
    logits = torch.randn(3, *geometry.grid, generator=torch.Generator().manual_seed(1))
    restorer = Restorer(geometry, 3, 1, keep_probabilities=True)
    assert restorer.needs_softmax
    for part in logits.split(5, 2):
        restorer.push_logits(part)
    expected = naive_probabilities(torch.softmax(logits, 0), geometry)
    torch.testing.assert_close(restorer.probabilities(), expected, atol=1e-5, rtol=0)
    plain = Restorer(geometry, 3, 1)
    plain.push_logits(7 * logits if spacing is None else logits)
    assert torch.equal(plain.labels(), restorer.labels())


def test_logits_are_enough_where_nothing_is_resampled():
    geometry = orient((6, 7, 8), AFFINE)
    logits = torch.randn(3, *geometry.grid, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        labels_from_probabilities(logits, geometry), labels_from_probabilities(5 * logits, geometry)
    )


# --- sheared grids --------------------------------------------------------------------------------------------------


def tilted(degrees, shape, spacing=(0.9, 0.8, 2.5)):
    """A CT whose slices move along their columns by the tilt of the gantry."""
    affine = np.diag([*spacing, 1.0])
    affine[1, 2] = spacing[2] * np.tan(np.radians(degrees))
    return affine


@SETTINGS
@given(
    st.floats(-25, 25), st.floats(0.7, 3.0), st.permutations(range(3)), st.integers(0, 100), st.integers(1, 7)
)
def test_a_sheared_grid_reads_the_prediction_where_its_voxels_are(degrees, spacing, order, seed, rows):
    """A smooth field of two classes on the prepared grid, compared in the world."""
    shape = np.array([22, 20, 14])[list(order)]
    affine = tilted(degrees, shape)[:, [*order, 3]]
    geometry = resampled(orient(tuple(shape), affine), spacing)
    rng = np.random.default_rng(seed)
    gradient = rng.normal(size=3)
    centre = (affine @ [*((shape - 1) / 2), 1])[:3]

    def field(at, grid):
        index = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), -1)
        return (index @ at[:3, :3].T + at[:3, 3] - centre) @ gradient

    logits = torch.from_numpy(field(geometry.prepared_affine, geometry.grid))
    maps = torch.stack([0.5 - 0.001 * logits, 0.5 + 0.001 * logits]).float()
    restorer = Restorer(geometry, 2, slab_axis(geometry))
    for part in maps.split(rows, slab_axis(geometry) + 1):
        restorer.push(part)
    expected = field(affine, shape)
    result = restorer.labels()[0].numpy()
    # At the rim there is nothing beyond to lean on, half a prepared voxel wide.
    step = np.abs(gradient @ geometry.prepared_affine[:3, :3]).sum()
    clear = np.abs(expected) > 0.51 * step
    np.testing.assert_array_equal(result[clear], expected[clear] > 0)
    inner = tuple(slice(3, -3) for _ in range(3))
    near = np.abs(expected[inner]) > 0.1 * step
    np.testing.assert_array_equal(result[inner][near], (expected[inner] > 0)[near])


@SETTINGS
@given(
    st.permutations(range(3)),
    st.tuples(*[st.integers(1, 10)] * 3),
    st.floats(-25, 25),
    st.tuples(*[st.sampled_from([0.7, 1.3, 3.0])] * 3),
    st.integers(0, 2),
)
def test_probabilities_are_those_at_the_place_in_the_world(order, shape, degrees, spacing, axis):
    """Any order of axes, tilted along two of them, axes of one voxel, rows along any axis: against scipy."""
    affine = tilted(degrees, shape)
    affine[0, 2] = 0.4
    affine, shape = affine[:, [*order, 3]], tuple(shape[axis] for axis in order)
    geometry = resampled(orient(shape, affine), spacing)
    maps = torch.softmax(torch.randn(5, *geometry.grid, generator=torch.Generator().manual_seed(1)), 0)
    restorer = Restorer(geometry, 5, axis, keep_probabilities=True)
    for part in maps.split(2, axis + 1):
        restorer.push(part)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    to_prepared = np.linalg.inv(geometry.prepared_affine) @ affine
    places = np.tensordot(to_prepared[:3, :3], voxels, 1) + to_prepared[:3, 3].reshape(3, 1, 1, 1)
    expected = [map_coordinates(one.double().numpy(), places, order=1, mode="nearest") for one in maps]
    np.testing.assert_allclose(restorer.probabilities(), np.stack(expected), atol=1e-5)


def test_probabilities_on_a_sheared_grid():
    affine = tilted(20, (12, 14, 9))
    geometry = resampled(orient((12, 14, 9), affine), 1.1)
    geometry_cut = resampled(cropped(orient((12, 14, 9), affine), ((2, 9), (3, 12), (0, 9))), 1.1)
    for each in (geometry, geometry_cut):
        maps = smooth(3, each.grid, 2)
        restorer = Restorer(each, 3, slab_axis(each), keep_probabilities=True)
        restorer.push(maps)
        result = restorer.probabilities()
        torch.testing.assert_close(result.sum(0), torch.ones(12, 14, 9))
        assert torch.equal(result.argmax(0), restorer.labels()[0].long())
        assert torch.equal(labels_from_probabilities(maps, each), restorer.labels())
    outside = (result[0] == 1).float().mean()
    assert 0.2 < outside < 0.8


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_of_the_network_does_not_move_voxels(precision):
    """Under autocast a product of matrices has 8 bits: places along a row of 160 voxels would be off by half a voxel."""
    for affine in (tilted(20, (160, 90, 20)), AFFINE):
        geometry = resampled(orient((160, 90, 20), affine), 1.6)
        maps = smooth(3, geometry.grid, 6)
        expected = labels_from_probabilities(maps, geometry)
        with torch.autocast("cpu", precision):
            assert torch.equal(labels_from_probabilities(maps, geometry), expected)


# --- what can go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [None, 2.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_becomes_no_class(spacing, value):
    geometry = resampled(orient((8, 9, 10), AFFINE), spacing)
    logits = torch.zeros(3, *geometry.grid)
    # A class that a network rules out is no error.
    logits[1] = -float("inf")
    Restorer(geometry, 3).push_logits(logits)
    logits[2, 1, 0, 2] = value
    with pytest.raises(NonFiniteError, match=r"NaN or infinite in 1 voxels.*--precision fp32"):
        Restorer(geometry, 3).push_logits(logits)


@pytest.mark.parametrize("tilt", [0, 20])
@pytest.mark.parametrize("failing", range(1, 12, 2))
def test_the_host_goes_on_where_the_device_is_full(tilt, failing, monkeypatch):
    geometry = resampled(orient((12, 14, 30), tilted(tilt, (12, 14, 30))), 1.1)
    maps = smooth(6, geometry.grid, 1)
    expected = labels_from_probabilities(maps, geometry)
    calls = []

    def full(function):
        def run(*args, **kwargs):
            calls.append(function)
            if len(calls) == failing:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return function(*args, **kwargs)

        return run

    restorer = Restorer(geometry, 6, slab_axis(geometry))
    for name in ("cat", "softmax", "zeros"):
        monkeypatch.setattr(torch, name, full(getattr(torch, name)))
    for part in (maps + 1e-30).log().split(4, restorer.axis + 1):
        restorer.push_logits(part)
    assert len(calls) > failing
    # Softmax of the logarithm is the same up to rounding only.
    assert (restorer.labels() == expected).float().mean() > 0.999


def test_rows_from_another_device_are_worked_on_by_the_host():
    """As where the sums of the windows leave a full device; a GPU is not needed to see where the rows go."""
    geometry = resampled(orient((8, 9, 10), AFFINE), 2.0)
    maps = smooth(6, geometry.grid, 1)
    moved = []

    class Rows(torch.Tensor):
        """Says that it is on a device until it is asked to leave it."""

        device = property(lambda self: torch.device("meta"))

        def cpu(self):
            moved.append(self.shape)
            return self.as_subclass(torch.Tensor)

    restorer = Restorer(geometry, 6, 0)
    first, second = maps.split([2, geometry.grid[0] - 2], 1)
    restorer.push(first)
    restorer.push(second.as_subclass(Rows))
    assert moved == [second.shape]
    assert torch.equal(restorer.labels(), labels_from_probabilities(maps, geometry))


def test_other_errors_are_not_retried():
    geometry = resampled(orient((8, 9, 10), AFFINE), 2.0)
    with pytest.raises(RuntimeError, match="meta"):
        Restorer(geometry, 2).push(torch.zeros(2, *geometry.grid, device="meta"))


def test_rows_may_be_used_again():
    geometry = resampled(orient((12, 9, 10), np.eye(4)), 2.0)
    maps = smooth(3, geometry.grid, 0)
    restorer, buffer = Restorer(geometry, 3, 0), torch.empty(3, *geometry.grid[1:], 1).movedim(-1, 1)
    last = torch.empty(1, *geometry.grid[1:], 3).movedim(-1, 0)
    for number, part in enumerate(maps.split(1, 1)):
        rows = (last, buffer)[number % 2].copy_(part)
        restorer.push(rows)
        rows.copy_(rows.flip(0).clone())
    assert torch.equal(restorer.labels(), labels_from_probabilities(maps, geometry))


@SETTINGS
@given(st.integers(5, 40), st.floats(0, 8), st.tuples(*[st.floats(0.4, 2.5)] * 3), st.integers(0, 2))
def test_borders_and_everywhere_are_the_same(classes, sharpness, spacing, axis):
    """Few borders are looked at one by one, many at once; probabilities are always made everywhere."""
    geometry = resampled(orient((11, 9, 13), np.diag([1.0, -1.0, 1.0, 1.0])), spacing)
    generator = torch.Generator().manual_seed(classes)
    maps = torch.softmax(sharpness * torch.randn(classes, *geometry.grid, generator=generator), 0)
    maps[:, : geometry.grid[0] // 2] = torch.eye(classes)[2][:, None, None, None]
    plain, kept = (
        Restorer(geometry, classes, axis),
        Restorer(geometry, classes, axis, keep_probabilities=True),
    )
    for part in maps.split(3, axis + 1):
        plain.push(part)
        kept.push(part)
    chosen = kept.probabilities().gather(0, plain.labels().long())
    torch.testing.assert_close(chosen[0], kept.probabilities().max(0).values, atol=2e-6, rtol=0)
    assert torch.equal(kept.labels()[0].long(), kept.probabilities().max(0).indices)


def test_missing_rows_and_classes_are_refused():
    geometry = orient((4, 4, 4), np.eye(4))
    restorer = Restorer(geometry, 2)
    with pytest.raises(ValueError, match="got rows of 3 classes, expected 2"):
        restorer.push(torch.zeros(3, 3, 4, 4))
    restorer.push(torch.zeros(2, 3, 4, 4))
    with pytest.raises(GeometryError, match="3 of 4 rows"):
        restorer.labels()
    restorer.push(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="not kept"):
        restorer.probabilities()
