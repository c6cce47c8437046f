"""Order, distance, copies, gaps and tilt of slices, against a known field in world space."""

import logging
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import read_series, scan_series
from transforms.io.readers import ImageError

angles = st.tuples(*(st.floats(-180, 180) for _ in range(3)))


def test_small_jitter_of_orientation_is_no_reason_to_refuse(folder):
    phantom = Phantom(axes=ph.rotation((10, 20, 30)))
    write_series(folder, ph.jittered(phantom.slices(), 1e-5))
    array, affine = read_series(folder)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-4)
    assert_in_world(array, affine)


def test_rounded_positions_pass_and_worse_ones_do_not(folder):
    write_series(folder, ph.moved(Phantom().slices(), 3, (0, 0, 0.02)))
    read_series(folder)
    write_series(folder, ph.moved(Phantom().slices(), 3, (0, 0, 0.04)))
    with pytest.raises(ImageError, match="uneven"):
        read_series(folder)


@given(degrees=st.floats(0.1, 35), sign=st.sampled_from([-1, 1]), angles=angles)
@some
def test_gantry_tilt_is_a_sheared_affine(tmp_path, degrees, sign, angles, caplog):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    caplog.clear()
    phantom = Phantom(tilt=sign * degrees, axes=ph.rotation(angles))
    write_series(tmp_path / "s", phantom.slices(), seed=1)
    with caplog.at_level(logging.INFO):
        array, affine = read_series(tmp_path / "s")
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert_in_world(array, affine)
    found = float(re.search(r"tilt of ([\d.e-]+) degrees", caplog.text).group(1))
    assert found == pytest.approx(degrees, rel=0.01)


def test_tilt_below_the_limit_keeps_its_place_in_the_affine(folder):
    phantom = Phantom(tilt=0.04)
    write_series(folder, phantom.slices())
    array, affine = read_series(folder)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-9)
    assert_in_world(array, affine)


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_instance", [True, False])
def test_copies_are_dropped_with_a_notice(folder, caplog, same_instance):
    slices = ph.duplicated(ph.duplicated(Phantom().slices(), 2, same_instance), 5, same_instance)
    write_series(folder, slices)
    with caplog.at_level(logging.WARNING):
        array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)
    assert re.search(
        r"IM0007\.dcm: the same image as IM0002\.dcm \(.*mm along the normal, 2 such", caplog.text
    )


def test_a_folder_that_holds_its_own_copy(folder, caplog):
    write_series(folder, Phantom().slices())
    shutil.copytree(folder, folder / "copy")
    array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)
    assert "7 such" in caplog.text


def test_an_instance_twice_with_other_values_or_another_scale_is_no_copy(folder):
    for change in ({"RescaleIntercept": "-1000"}, {"PixelData": bytes(216)}):
        slices = Phantom().slices()
        write_series(folder, [*slices, *ph.changed(slices[3:4], 0, **change)])
        with pytest.raises(ImageError, match=r"IM0007\.dcm: at the same position as IM0003\.dcm"):
            scan_series(folder)


def test_slices_beside_each_other_in_one_plane(folder):
    slices = Phantom().slices()
    beside = ph.moved(ph.duplicated(slices, 3, False), 7, (40, 0, 0))
    write_series(folder, beside)
    with pytest.raises(ImageError, match=r"IM0007\.dcm: beside IM0003\.dcm, 40 mm away in one plane"):
        scan_series(folder)


# --- gaps and uneven distances --------------------------------------------------------------------------------------


@given(
    # Without every second slice nothing is missing: the others are as far apart as each other.
    gaps=st.sets(st.integers(1, 9), min_size=1, max_size=5).filter(lambda gaps: gaps != {1, 3, 5, 7, 9}),
    tilt=st.sampled_from([0.0, 12.0]),
    angles=angles,
    seed=st.integers(0, 9),
)
@some
def test_missing_slices_are_filled_on_request(tmp_path, gaps, tilt, angles, seed):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(shape=(6, 5, 11), axes=ph.rotation(angles), tilt=tilt)
    kept = [index for index in range(11) if index not in gaps]
    paths = write_series(tmp_path / "s", ph.without(phantom.slices(), *gaps), seed=seed)
    with pytest.raises(ImageError, match=rf"{len(gaps)} slice\(s\) missing: .*--allow missing-slices"):
        scan_series(tmp_path / "s")
    series = scan_series(tmp_path / "s", allow=["missing-slices"])
    array, affine = read_series(series)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert array.dtype == np.int16
    assert series.sources == tuple(
        None if index in gaps else (paths[kept.index(index)], 0) for index in range(11)
    )
    expected = ph.hounsfield(ph.world_grid(phantom.shape, affine))
    np.testing.assert_allclose(array[..., kept], expected[..., kept], atol=0.501)
    for index in gaps:
        below, above = max(k for k in kept if k < index), min(k for k in kept if k > index)
        weight = (index - below) / (above - below)
        between = array[..., below] * (1 - weight) + array[..., above] * weight
        np.testing.assert_allclose(array[..., index], between, atol=0.501)


@given(data=st.data(), angles=angles, tilt=st.sampled_from([0.0, -15.0]))
@some
def test_uneven_slices_are_resampled_on_request(tmp_path, data, angles, tilt):
    """A field that is linear along the normal is exact under linear interpolation."""
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(shape=(6, 5, 9), axes=ph.rotation(angles), tilt=tilt)
    lps = ph.LPS @ phantom.affine
    slices, along = phantom.slices(), [0.0]
    for _ in range(8):
        along.append(along[-1] + data.draw(st.floats(1.0, 1.5)))
    along[4] += 0.2
    for image, place in zip(slices, along, strict=True):
        image.ImagePositionPatient = [ph.decimal(v) for v in lps[:3, 3] + lps[:3, 2] * place]
        ph.set_pixels(image, np.full((5, 6), round(1000 + 100 * place)))
    write_series(tmp_path / "s", slices, seed=1)
    with pytest.raises(ImageError, match=r"uneven slice spacing: .*--allow uneven-spacing"):
        scan_series(tmp_path / "s")
    series = scan_series(tmp_path / "s", allow=("uneven-spacing",))
    array, affine = read_series(series)
    usual = np.median(np.diff(along))
    np.testing.assert_allclose(affine[:3, 2], phantom.affine[:3, 2] * usual, atol=1e-6)
    np.testing.assert_allclose(affine[:3, 3], phantom.affine[:3, 3], atol=1e-6)
    assert array.shape[2] == int(along[-1] / usual + 1e-6) + 1
    assert series.sources[0] is not None
    assert sum(source is None for source in series.sources) == array.shape[2] - sum(
        np.abs(place / usual - round(place / usual)) < 1e-6 for place in along
    )
    np.testing.assert_allclose(array, -24 + 100 * usual * np.arange(array.shape[2]) + 0 * array, atol=1.01)


def test_what_is_allowed_says_in_mm_what_it_did(folder, caplog):
    write_series(folder, ph.without(Phantom().slices(), 3, 4))
    read_series(folder, allow="missing-slices")
    assert "2 of 7 slices are missing" in caplog.text
    assert "widest gap 7.5 mm between IM0002.dcm and IM0003.dcm where 2.5 mm" in caplog.text
    caplog.clear()
    shutil.rmtree(folder)
    write_series(folder, ph.moved(Phantom().slices(), 6, (0, 0, 0.8)))
    array, affine = read_series(folder, allow={"uneven-spacing"})
    assert "slices 2.5 to 3.3 mm apart were resampled" in caplog.text
    assert "the last 0.8 mm are left out" in caplog.text
    assert_in_world(array[..., :6], affine)


def test_each_finding_needs_its_own_word(folder):
    slices = ph.moved(ph.without(Phantom(shape=(6, 5, 12)).slices(), 4), 8, (0, 0, 0.9))
    write_series(folder, slices)
    for allow, word in (
        ((), "missing-slices"),
        (("missing-slices",), "uneven-spacing"),
        (("uneven-spacing",), "missing-slices"),
    ):
        with pytest.raises(ImageError, match=f"--allow {word}"):
            scan_series(folder, allow=allow)
    assert scan_series(folder, allow=("missing-slices", "uneven-spacing")).shape == (6, 5, 12)


def test_more_missing_than_there_is_not_filled(folder):
    write_series(folder, ph.without(Phantom(shape=(6, 5, 20)).slices(), *range(4, 18)))
    with pytest.raises(ImageError, match=r"14 slices missing and only 6 there, with 37\.5 mm"):
        scan_series(folder, allow=["missing-slices"])


def test_unknown_names_are_no_permission(folder):
    write_series(folder, Phantom().slices())
    with pytest.raises(
        ImageError, match=r"--allow gaps: not known; .*missing-slices, uneven-spacing, alternating"
    ):
        scan_series(folder, allow=["gaps"])


@given(
    spacing=st.sampled_from([0.625, 1.25, 0.67, 3.33]), start=st.floats(-99, 99), slices=st.integers(5, 40)
)
@some
def test_positions_rounded_to_a_tenth_of_a_millimetre(tmp_path, spacing, start, slices):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(shape=(4, 3, slices), spacing=(1, 1, spacing), origin=(0, 0, start))
    images = phantom.slices()
    for image in images:
        image.ImagePositionPatient = [f"{float(v):.1f}" for v in image.ImagePositionPatient]
    write_series(tmp_path / "s", images)
    array, affine = read_series(tmp_path / "s")
    corners = np.array([[0, 0, 0, 1], [0, 0, slices - 1, 1]]).T
    np.testing.assert_allclose(affine @ corners, phantom.affine @ corners, atol=0.1)
    assert array.shape[2] == slices


@pytest.mark.parametrize(
    ("turn", "tilt"),
    [((13, -7, 4), 15), ((0, 20, 0), 0), ((88, 3, -2), 15), ((5, 0, 0), 0), ((0, 0, 30), 22.5)],
)
def test_rounded_positions_of_oblique_and_tilted_slices(folder, tilt, turn):
    phantom = Phantom(shape=(4, 3, 20), spacing=(1, 1, 3.0), axes=ph.rotation(turn), tilt=tilt)
    images = phantom.slices()
    for image in images:
        image.ImagePositionPatient = [f"{float(v):.1f}" for v in image.ImagePositionPatient]
    write_series(folder, images)
    array, affine = read_series(folder)
    corners = np.array([[0, 0, 0, 1], [0, 0, 19, 1]]).T
    np.testing.assert_allclose(affine @ corners, phantom.affine @ corners, atol=0.1)
    assert array.shape[2] == 20


def test_a_missing_slice_among_rounded_positions_is_no_uneven_distance(folder):
    images = Phantom(shape=(4, 3, 12), spacing=(1, 1, 0.625)).slices()
    for image in images:
        image.ImagePositionPatient = [f"{float(v):.1f}" for v in image.ImagePositionPatient]
    write_series(folder, ph.without(images, 5))
    with pytest.raises(ImageError, match=r"1 slice\(s\) missing: 1\.\d mm to the next slice"):
        scan_series(folder)
    assert scan_series(folder, allow=["missing-slices"]).shape[2] == 12


def test_a_slice_off_by_a_tenth_is_not_taken_for_rounding(folder):
    images = Phantom(spacing=(1, 1, 2.5), origin=(0, 0, 10)).slices()
    for image in images:
        image.ImagePositionPatient = [f"{float(v):.1f}" for v in image.ImagePositionPatient]
    write_series(folder, ph.moved(images, 3, (0, 0, 0.1)))
    with pytest.raises(ImageError, match="uneven"):
        scan_series(folder)


def test_sideways_shifts_that_are_no_tilt(folder):
    for index, shift in ((6, (0.5, 0, 0)), (3, (0, -0.3, 0))):
        write_series(folder, ph.moved(Phantom(tilt=10).slices(), index, shift))
        with pytest.raises(ImageError, match="shifted sideways"):
            scan_series(folder)
