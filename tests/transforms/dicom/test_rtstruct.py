"""DICOM RTSTRUCT onto the grid of a CT, in world space."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import disc, grid
from tests.dicom_phantom import Phantom, world_grid, write_series
from transforms.dicom.labels import read_dicom_label
from transforms.io.readers import ImageError, read_header, read_label

NAMES = {0: "background", 1: "Heart", 2: "spinal_cord"}
some = settings(max_examples=30)
angles = st.tuples(*[st.floats(-40, 40)] * 3)


def in_disc(ct: Phantom, index: int, centre, radius) -> np.ndarray:
    """Voxels of a slice nearer to the centre than `radius` mm, (X, Y)."""
    world = world_grid(ct.shape, ct.affine)[:, :, index]
    middle = (ct.affine @ [*centre, index, 1])[:3]
    return np.linalg.norm(world - middle, axis=-1) < radius


@given(
    degrees=angles,
    tilt=st.sampled_from([0.0, 15.0, -24.0]),
    radius=st.floats(1.5, 6),
    hole=st.floats(0.4, 0.9),
    x=st.floats(4, 16),
    y=st.floats(4, 14),
    seed=st.integers(0, 99),
)
@some
def test_discs_with_holes_in_world_space(tmp_path, degrees, tilt, radius, hole, x, y, seed):
    ct = Phantom(shape=(21, 18, 6), axes=ph.rotation(degrees), tilt=tilt)
    expected = np.zeros(ct.shape, np.uint8)
    contours = []
    for index in range(1, 5):
        contours.append(("CLOSED_PLANAR", disc(ct, index, (x, y), radius)))
        expected[:, :, index] = in_disc(ct, index, (x, y), radius)
        if index > 2:
            contours.append(("CLOSED_PLANAR", disc(ct, index, (x, y), radius * hole)[::-1]))
            expected[:, :, index] -= in_disc(ct, index, (x, y), radius * hole)
    np.random.default_rng(seed).shuffle(contours)
    path = lf.rtstruct_file(tmp_path / "a.dcm", {"Skin": [], "HEART ": contours})
    read = read_dicom_label(path, grid(ct), NAMES)
    world = world_grid(ct.shape, ct.affine)
    clear = np.ones(ct.shape, bool)  # a polygon of 400 points keeps within 1e-3 of the circle
    for index in range(ct.shape[2]):
        middle = (ct.affine @ [x, y, index, 1])[:3]
        distance = np.linalg.norm(world[:, :, index] - middle, axis=-1)
        clear[:, :, index] = (np.abs(distance - radius) > 1e-3) & (np.abs(distance - radius * hole) > 1e-3)
    np.testing.assert_array_equal(read[clear], expected[clear])


@pytest.fixture
def ct() -> Phantom:
    return Phantom(shape=(21, 18, 6), axes=ph.rotation((12, -8, 20)))


def read(tmp_path, ct, contours, **more):
    return read_dicom_label(
        lf.rtstruct_file(tmp_path / "a.dcm", {"heart": contours}, **more), grid(ct), NAMES
    )


def test_overlap_goes_to_the_higher_class_id(tmp_path, ct, caplog):
    one, two = disc(ct, 2, (8, 8), 4.3), disc(ct, 2, (11, 9), 4.3)
    path = lf.rtstruct_file(
        tmp_path / "a.dcm", {"Spinal cord": [("CLOSED_PLANAR", two)], "heart": [("CLOSED_PLANAR", one)]}
    )
    label = read_dicom_label(path, grid(ct), NAMES)
    first, second = in_disc(ct, 2, (8, 8), 4.3), in_disc(ct, 2, (11, 9), 4.3)
    np.testing.assert_array_equal(label[:, :, 2], np.where(second, 2, first))
    assert f"{int((first & second).sum())} voxels belong to several classes" in caplog.text


def test_contours_off_the_slices_are_refused_with_the_distance(tmp_path, ct):
    for shift, distance in ((0.5, "1.25"), (4.0, "2.5"), (-3.2, "3")):
        contour = disc(ct, 2 + shift, (8, 8), 4.3)
        with pytest.raises(
            ImageError, match=rf"contour 1 of ROI 'heart' .* lies {distance} mm off the nearest slice"
        ):
            read(tmp_path, ct, [("CLOSED_PLANAR", contour)])
    rounded = np.round(disc(ct, 2, (8, 8), 4.3), 1)  # as coarse as planning systems write
    assert read(tmp_path, ct, [("CLOSED_PLANAR", rounded)])[:, :, 2].any()


def test_contours_across_slices_are_refused(tmp_path, ct):
    contour = disc(ct, 2, (8, 8), 4.3)
    contour[50] += 0.6 * ct.axes[:, 2]
    with pytest.raises(ImageError, match=r"is not planar: its points reach over 0\.6 mm across"):
        read(tmp_path, ct, [("CLOSED_PLANAR", contour)])


def test_points_and_open_contours_are_left_out_with_a_notice(tmp_path, ct, caplog):
    contour = disc(ct, 2, (8, 8), 4.3)
    label = read(
        tmp_path,
        ct,
        [
            ("POINT", contour[:1]),
            ("OPEN_PLANAR", disc(ct, 3, (8, 8), 4.3)),
            ("CLOSEDPLANAR_XOR", contour),
            ("CLOSED_PLANAR", disc(ct, 4, (8, 8), 4.3)[:2]),
        ],
    )
    np.testing.assert_array_equal(label[:, :, 2], in_disc(ct, 2, (8, 8), 4.3))
    assert np.unique(np.nonzero(label)[2]).tolist() == [2]
    assert "1 POINT, 1 OPEN_PLANAR, 1 CLOSED_PLANAR of 2 point(s) contour(s) left out" in caplog.text


def test_notices_of_gaps_doubles_and_what_reaches_out(tmp_path, ct, caplog):
    contours = [("CLOSED_PLANAR", disc(ct, index, (1, 8), 4.3)) for index in (1, 1, 4)]
    label = read(tmp_path, ct, contours)
    for index in (1, 4):
        np.testing.assert_array_equal(label[:, :, index], in_disc(ct, index, (1, 8), 4.3))
    turned = np.roll(contours[0][1], 17, axis=0)[::-1]  # the same circle, begun elsewhere and drawn backwards
    again = read(tmp_path, ct, [*contours[1:], ("CLOSED_PLANAR", turned)])
    np.testing.assert_array_equal(again, label)
    assert "cross each other" not in caplog.text
    crossing = [("CLOSED_PLANAR", disc(ct, 2, centre, 4.3)) for centre in ((8, 8), (11, 9))]
    one, two = in_disc(ct, 2, (8, 8), 4.3), in_disc(ct, 2, (11, 9), 4.3)
    np.testing.assert_array_equal(read(tmp_path, ct, crossing)[:, :, 2], one ^ two)
    assert f"cross each other; {int((one & two).sum())} voxels inside of two" in caplog.text
    assert "no contour on 2 of the 4 slices" in caplog.text
    assert "1 contour(s) occur twice" in caplog.text
    assert "reaches up to 3.1 mm out of the CT" in caplog.text  # 4.3 mm less 1.5 voxels of 0.8 mm


def test_names(tmp_path, ct, caplog):
    contours = [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3))]
    path = lf.rtstruct_file(tmp_path / "a.dcm", {"Lung": contours, "PTV 60": contours})
    with pytest.raises(
        ImageError, match=r"none of its ROIs .*holds 'Lung', 'PTV 60', and dataset.json names Heart"
    ):
        read_dicom_label(path, grid(ct), NAMES)
    path = lf.rtstruct_file(tmp_path / "a.dcm", {"Spinal-Cord": contours, "spinal cord": contours})
    with pytest.raises(ImageError, match=r"ROIs 1 .* 2 .* all named like the class 'spinal_cord'"):
        read_dicom_label(path, grid(ct), NAMES)
    path = lf.rtstruct_file(
        tmp_path / "a.dcm", {"Heart": contours, "cord": [("CLOSED_PLANAR", np.zeros((9, 3)))]}
    )
    with caplog.at_level(logging.WARNING):
        assert read_dicom_label(path, grid(ct), NAMES).max() == 1  # what nobody asked for may lie anywhere
    assert "'cord' not named in dataset.json and left out; no ROI is named spinal_cord" in caplog.text


def test_damaged(tmp_path, ct):
    path = lf.rtstruct_file(tmp_path / "a.dcm", {"heart": [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3))]})
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 500
    lf.save(dataset, path)
    with pytest.raises(ImageError, match="has 1200 coordinates for 500 points"):
        read_dicom_label(path, grid(ct), NAMES)


@given(share=st.floats(0, 1))
@some
@pytest.mark.filterwarnings("ignore")
def test_cut_off_anywhere_is_never_read_wrongly(tmp_path, share):
    ct = Phantom(shape=(21, 18, 6))
    contours = [("CLOSED_PLANAR", disc(ct, index, (8, 8), 4.3, 30)) for index in (1, 2)]
    path = lf.rtstruct_file(tmp_path / "a.dcm", {"heart": contours, "spinal cord": contours[:1]})
    expected = read_dicom_label(path, grid(ct), NAMES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * (len(whole) - 1))])
    try:
        label = read_dicom_label(path, grid(ct), NAMES)
    except ImageError:
        return
    np.testing.assert_array_equal(label, expected)


@given(place=st.floats(0, 1), value=st.integers(0, 255))
@settings(some, max_examples=150)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_raise_nothing_but_image_errors(tmp_path, place, value):
    ct = Phantom(shape=(21, 18, 6))
    if not (tmp_path / "whole").exists():
        contours = [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3, 12))]
        lf.rtstruct_file(tmp_path / "whole", {"heart": contours, "cord": contours}, "1.2.3")
    raw = bytearray((tmp_path / "whole").read_bytes())
    raw[132 + int(place * (len(raw) - 133))] = value
    (tmp_path / "a.dcm").write_bytes(raw)
    try:
        label = read_dicom_label(tmp_path / "a.dcm", grid(ct), NAMES)
    except ImageError:
        return
    assert label.shape == ct.shape


def test_frame_of_reference(tmp_path, ct, caplog):
    slices = ct.slices()
    write_series(tmp_path / "ct", slices)
    contours = [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3))]

    def with_image(uid, images=()):
        path = lf.rtstruct_file(tmp_path / "a.dcm", {"heart": contours}, uid, images)
        return read_dicom_label(path, grid(ct), NAMES, image=tmp_path / "ct")

    with_image(slices[0].FrameOfReferenceUID, ["1.2.3.4"])
    with_image("")
    assert "frame of reference" not in caplog.text
    with pytest.raises(ImageError, match=r"its frame of reference \(1\.2\.3\) is not that of"):
        with_image("1.2.3", ["1.2.3.4"])
    with_image("1.2.3", [slices[2].SOPInstanceUID])
    assert "states another frame of reference" in caplog.text


def test_real_files(shared_data, tmp_path, caplog):
    folder = shared_data / "dicom" / "rtstruct"
    for name in ("ct_1.dcm", "ct_2.dcm"):
        shutil.copy(folder / name, tmp_path)
    header = read_header(tmp_path)
    names = {0: "background", 1: "roi_1"}
    label = read_label(folder / "rt.dcm", header, names, image=tmp_path).numpy()[0]
    expected = np.zeros(header.shape[:2], bool)
    for contour in pydicom.dcmread(folder / "rt.dcm").ROIContourSequence[0].ContourSequence:
        points = np.reshape(contour.ContourData, (-1, 3)).astype(float)[:, :2]
        centres = np.stack(np.meshgrid(np.arange(512), np.arange(512), indexing="ij"), -1) * 0.488281 - 125
        expected ^= Outline(points).contains_points(centres.reshape(-1, 2)).reshape(512, 512)
    np.testing.assert_array_equal(label[:, :, 0], expected)
    assert not label[:, :, 1].any()
    assert "states another frame of reference" in caplog.text  # its own, but it names ct_1.dcm
    for name in ("invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"):
        with pytest.raises(
            ImageError, match=rf"{name}: contour 1 of ROI 'ROI-1' .* 70\) mm, LPS\) lies 5 mm off"
        ):
            read_label(folder / name, header, names, image=tmp_path)
