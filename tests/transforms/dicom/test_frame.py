"""Enhanced and legacy converted enhanced CT: frames are slices, whose `attributes.GROUPS` are shared or their own."""

import copy
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError, read_header, read_image

SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")


@given(
    angles=st.tuples(*(st.floats(-180, 180) for _ in range(3))),
    sop_class=st.sampled_from([EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage]),
    shared=st.sets(st.sampled_from(SHARED)),
    order=st.permutations(range(8)),
    split=st.integers(0, 7),
    tilt=st.sampled_from([0.0, 8.0]),
    syntax=st.sampled_from(
        [
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
            JPEGLSLossless,
        ]
    ),
)
@some
def test_any_order_of_frames_in_one_file_or_two(
    tmp_path, angles, sop_class, shared, order, split, tilt, syntax
):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(shape=(6, 5, 8), axes=ph.rotation(angles), tilt=tilt)
    slices = [phantom.slices()[index] for index in order]
    parts = [part for part in (slices[:split], slices[split:]) if part]
    files = [ph.multi_frame(part, sop_class, sorted(shared), number) for number, part in enumerate(parts)]
    paths = write_series(tmp_path / "s", files, syntax=syntax, depth=1)
    series = scan_series(tmp_path / "s")
    array, affine = read_series(series)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert array.dtype == np.int16
    assert_in_world(array, affine)
    places = [(path, frame) for path, part in zip(paths, parts, strict=True) for frame in range(len(part))]
    assert series.sources == tuple(places[order.index(index)] for index in range(8))
    assert set(series.files) == set(paths)


def test_slope_and_intercept_of_every_frame(folder):
    phantom = Phantom(slopes=(1.0, 0.5, 0.25), intercepts=(0.0, 10.0), signed=True)
    write_series(folder, [ph.multi_frame(phantom.slices())])
    array, affine = read_series(folder)
    assert array.dtype == np.float32
    assert_in_world(array, affine)


def test_one_file_is_a_path_too(folder):
    phantom = Phantom(axes=ph.rotation((3, 4, 5)))
    (path,) = write_series(folder, [ph.multi_frame(phantom.slices())])
    for name in (path, shutil.copy(path, folder / "no_ending")):
        image, header = read_image(name), read_header(name)
        assert tuple(image.shape[1:]) == header.shape == (12, 9, 7)
        assert_in_world(image.numpy()[0], image.affine.numpy())


def test_values_at_the_top_do_not_count(folder):
    """Some writers repeat a position and a slope of nothing there."""
    image = ph.multi_frame(Phantom().slices())
    image.ImagePositionPatient, image.RescaleSlope, image.PixelSpacing = [0, 0, 0], "7", [9, 9]
    write_series(folder, [image])
    assert_in_world(*read_series(folder))


@pytest.mark.parametrize(
    ("keyword", "values", "label"),
    [
        ("TemporalPositionIndex", [1, 2], "temporal position {}"),
        ("FrameAcquisitionDateTime", ["20200101100000", "20200101100130"], "acquired at {}"),
    ],
)
def test_phases_in_one_file(folder, keyword, values, label):
    slices = ph.phases(Phantom().slices(), shift=50, **{keyword: values})
    write_series(folder, [ph.multi_frame(slices)])
    assert [(v.count, v.phase) for v in find_volumes(folder)] == [
        (7, label.format(value)) for value in values
    ]
    array, affine = read_series(folder, series=2)
    assert_in_world(array - 50, affine)


def test_stacks_in_one_file(folder):
    first, second = Phantom(), Phantom(axes=ph.rotation((90, 0, 0)))
    slices = ph.changed(first.slices(), None, StackID="1") + ph.changed(second.slices(), None, StackID="2")
    for image in slices:
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = "1.2", "1.3", "1.4"
    shared = ("PixelMeasuresSequence",)
    image = ph.multi_frame([*slices[:7], *slices[7:]], shared=shared)
    write_series(folder, [image])
    assert sorted((v.count, v.orientation) for v in find_volumes(folder)) == [(7, "axial"), (7, "coronal")]
    for number in (1, 2):
        assert_in_world(*read_series(folder, series=number))


def frames(change, *indices):  # type: ignore[no-untyped-def]
    """Change the functional groups of frames, by default of all."""

    def spoil(image):  # type: ignore[no-untyped-def]
        groups = image.PerFrameFunctionalGroupsSequence
        for index in indices or range(len(groups)):
            change(groups[index])

    return spoil


def without_position(group):  # type: ignore[no-untyped-def]
    del group.PlanePositionSequence


def moved(group):  # type: ignore[no-untyped-def]
    group.PlanePositionSequence[0].ImagePositionPatient[2] += 0.9


REFUSED = {
    "no position": (frames(without_position, 3), r"\(frame 4\): ImagePositionPatient is missing"),
    "uneven": (
        frames(moved, 6),
        r"\(frame 6\): uneven slice spacing: 3\.4 mm to the next slice frame 7 of IM0000",
    ),
    "fewer groups": (
        lambda image: image.PerFrameFunctionalGroupsSequence.pop(),
        r"7 frames but functional groups for 6",
    ),
    "no groups": (
        lambda image: delattr(image, "PerFrameFunctionalGroupsSequence"),
        r"multi-frame image .*7 frames\) without functional groups",
    ),
    "cut off": (
        lambda image: setattr(image, "PixelData", image.PixelData[:-400]),
        r"IM0000\.dcm: .*cut off|cut off",
    ),
    "curved": (lambda image: setattr(image, "VolumetricProperties", "DISTORTED"), "DISTORTED"),
    "not HU": (
        frames(lambda group: setattr(group.PixelValueTransformationSequence[0], "RescaleType", "Z_EFF"), 2),
        r"\(frame 3\): values are in 'Z_EFF'",
    ),
    "localizer frame": (
        frames(
            lambda group: setattr(
                group.CTImageFrameTypeSequence[0], "FrameType", ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
            ),
            0,
        ),
        r"2 volumes .*localizer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_frame(folder, case):
    spoil, message = REFUSED[case]
    image = ph.multi_frame(Phantom().slices())
    spoil(image)
    write_series(folder, [image])
    with pytest.raises(ImageError, match=re.compile(message, re.DOTALL)):
        read_series(folder)


def test_a_gap_between_frames_is_filled_on_request(folder):
    write_series(folder, [ph.multi_frame(ph.without(Phantom().slices(), 2))])
    series = scan_series(folder, allow=["missing-slices"])
    assert [source and source[1] for source in series.sources] == [0, 1, None, 2, 3, 4, 5]
    expected = ph.hounsfield(ph.world_grid(series.shape, series.affine))
    kept = [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(read_series(series)[0][..., kept], expected[..., kept], atol=0.501)


def test_the_same_frame_twice_is_dropped(folder, caplog):
    slices = Phantom().slices()
    write_series(folder, [ph.multi_frame([*slices, copy.deepcopy(slices[4])])])
    array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)
    assert "frame 8" in caplog.text


def test_one_frame_on_a_classic_image_is_said_too_much_but_true(folder):
    write_series(folder, ph.changed(Phantom().slices(), None, NumberOfFrames=1))
    assert_in_world(*read_series(folder))
