"""DICOM SEG onto the grid of a CT and back, compared in world space and with three other readers."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.uid import EnhancedCTImageStorage, RLELossless

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_phantom import LPS, Phantom, write_series
from transforms.dicom.headers import frames_of
from transforms.dicom.labels import find_dicom_label, read_dicom_label
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import Series, scan_series
from transforms.io.readers import Header, ImageError, read_header, read_label

NAMES = {0: "background", 1: "left lung", 2: "Tumor", 3: "spinal_cord"}
SEGMENTS = {1: "Left_Lung", 2: " tumor ", 3: "spinal-cord"}
some = settings(max_examples=40)
angles = st.tuples(*[st.floats(-40, 40)] * 3)


@pytest.fixture
def ct() -> Phantom:
    return Phantom(shape=(13, 9, 7), axes=ph.rotation((11, -7, 23)))


def grid(ct: Phantom) -> Header:
    return Header(ct.shape, 1, ct.affine)


def by_segment(ct, kind="BINARY", planes=2):
    """Frames of all segments of the regions on the grid of a CT."""
    array = lf.label_map(ct.shape, ct.affine)
    frames = []
    for segment in SEGMENTS:
        level = 200 if kind == "FRACTIONAL" else 1
        cut, cosines, spacing = lf.frames_of((array == segment) * level, ct.affine, planes)
        frames += [(segment, position, frame) for position, frame in cut]
    return array, frames, cosines, spacing


# --- reading --------------------------------------------------------------------------------------------------------


@given(data=st.data(), degrees=angles, tilt=st.sampled_from([0.0, 0.0, 12.5, -23.0]))
@some
def test_any_orientation_axis_order_part_and_order_of_frames(tmp_path, data, degrees, tilt):
    ct = Phantom(shape=(11, 9, 7), axes=ph.rotation(degrees), tilt=tilt)
    # a plane of a sheared grid has right angles only along its slices
    planes = 2 if tilt else data.draw(st.integers(0, 2))
    flips = [data.draw(st.booleans()) for _ in range(3)]
    window = []
    for size in ct.shape:
        first = data.draw(st.integers(0, size - 1))
        window.append(slice(first, data.draw(st.integers(first + 1, size))))
    swap = data.draw(st.booleans())
    whole = lf.label_map(ct.shape, ct.affine)
    expected = np.zeros_like(whole)
    expected[tuple(window)] = whole[tuple(window)]
    part, affine = whole[tuple(window)], ct.affine.copy()
    affine[:3, 3] = (affine @ [*(w.start for w in window), 1])[:3]
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (part.shape[axis] - 1)
        affine[:3, axis] *= -1
        part = np.flip(part, axis)
    kind = data.draw(st.sampled_from(["BINARY", "FRACTIONAL", "LABELMAP"]))
    frames = []
    for segment in [0] if kind == "LABELMAP" else SEGMENTS:
        values = part if kind == "LABELMAP" else (part == segment) * (200 if kind == "FRACTIONAL" else 1)
        cut, cosines, (across, down) = lf.frames_of(values, affine, planes)
        frames += [(segment, position, frame) for position, frame in cut]
    if swap:  # rows for columns: the frame transposed, its cosines exchanged
        frames = [(segment, position, frame.T) for segment, position, frame in frames]
        cosines, across, down = np.roll(cosines, 3), down, across
    if data.draw(st.booleans()):
        frames = [frame for frame in frames if frame[2].any()] or frames[:1]
    frames = data.draw(st.permutations(frames))
    path = lf.seg_file(
        tmp_path / "a.dcm", SEGMENTS, frames, cosines, (across, down), kind, shared=data.draw(st.booleans())
    )
    read = read_dicom_label(path, grid(ct), NAMES)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


def test_read_label_gives_a_meta_tensor_on_the_grid(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, frames, cosines, spacing)
    label = read_label(path, grid(ct), NAMES)
    assert label.dtype == torch.uint8
    np.testing.assert_array_equal(label.numpy()[0], array)
    np.testing.assert_array_equal(label.affine.numpy(), ct.affine)
    with pytest.raises(ImageError, match=r"a\.dcm: .*needs the grid of its image and the names"):
        read_label(path)
    many = {**NAMES, **{index: f"class {index}" for index in range(4, 301)}}
    assert read_label(path, grid(ct), many).dtype == torch.uint16


def test_real_files_equal_their_nrrd_twin(shared_data):
    folder = shared_data / "dicom" / "seg"
    header = read_header(folder / "ct-3slice")
    names = {0: "background", 1: "liver"}
    image = folder / "ct-3slice"
    read = read_label(folder / "liver.dcm", header, names, image=image).numpy()[0]
    twin = read_label(folder / "liver_spine_seg.nrrd")
    np.testing.assert_array_equal(read == 1, twin.numpy()[0] == 1)
    np.testing.assert_allclose(header.affine, twin.affine, atol=1e-6)


def test_real_overlaps_equal_dcmqi_segment_by_segment(shared_data, tmp_path, caplog):
    path = shared_data / "dicom" / "seg" / "partial_overlaps.dcm"
    header = read_header(shared_data / "dicom" / "seg" / "ct-3slice")
    names = {0: "background", 1: "green", 2: "orange", 3: "purple", 4: "light blue", 5: "dark_blue"}
    with caplog.at_level(logging.WARNING):
        read = read_label(path, header, names).numpy()[0]
    layers = [
        carried(tool_volume(path, tmp_path / str(index), index), header) == index for index in range(1, 6)
    ]
    expected = np.zeros(header.shape, np.uint8)
    for index, layer in enumerate(layers, 1):
        expected[layer] = index
    np.testing.assert_array_equal(read, expected)
    shared = int((np.sum(layers, axis=0) > 1).sum())
    assert (
        f"{shared} voxels belong to several classes and got the one with the higher class id" in caplog.text
    )


def test_real_sparse_label_map(shared_data):
    path = shared_data / "dicom" / "seg" / "sparse-labelmap-noppv.dcm"
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    affine[:3, 3] = -46.464901, -5.0188098, -177.75
    read = read_label(path, Header((24, 38, 3), 1, affine), {0: "background", 1: "liver"}).numpy()[0]
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    expected = lf.carried_over(volume.array, LPS @ volume.affine, (24, 38, 3), affine)
    np.testing.assert_array_equal(read, expected)
    assert read.any(axis=(0, 1)).tolist() == [True, False, True]


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 100), (0.25, 50), (1.0, 200)])
def test_fractions_from_the_threshold_on(tmp_path, ct, threshold, level):
    _, _, cosines, spacing = by_segment(ct)
    stored = np.random.default_rng(0).integers(0, 201, ct.shape)
    frames, _, _ = lf.frames_of(stored, ct.affine)
    path = lf.seg_file(
        tmp_path / "a.dcm", {1: "tumor"}, [(1, p, f) for p, f in frames], cosines, spacing, "FRACTIONAL"
    )
    read = read_dicom_label(path, grid(ct), NAMES, threshold=threshold)
    np.testing.assert_array_equal(read == 2, stored >= level)


def test_overlap_goes_to_the_higher_class_id_in_any_order_of_frames(tmp_path, ct, caplog):
    organ, lesion = (np.zeros(ct.shape, np.uint8) for _ in range(2))
    organ[2:9, 2:8, 1:5] = 1
    lesion[4:12, 3:5, 2:7] = 1
    frames = []
    for segment, mask in ((1, lesion), (2, organ)):  # numbered against the class ids
        cut, cosines, spacing = lf.frames_of(mask, ct.affine)
        frames += [(segment, p, f) for p, f in cut]
    names = {0: "background", 1: "liver", 2: "lesion"}
    for order in (frames, frames[::-1]):
        path = lf.seg_file(tmp_path / "a.dcm", {1: "lesion", 2: "liver"}, order, cosines, spacing)
        with caplog.at_level(logging.WARNING):
            read = read_dicom_label(path, grid(ct), names)
        np.testing.assert_array_equal(read, np.where(lesion, 2, organ))
        assert f"a.dcm: {int((organ & lesion).sum())} voxels belong to several classes" in caplog.text
        caplog.clear()


def test_names_that_the_dataset_lacks_are_noticed_once(tmp_path, ct, caplog):
    array, frames, cosines, spacing = by_segment(ct)
    path = lf.seg_file(
        tmp_path / "a.dcm", {1: "Left lung", 2: "tumour bed", 3: "cord"}, frames, cosines, spacing
    )
    with caplog.at_level(logging.WARNING):
        read = read_dicom_label(path, grid(ct), NAMES)
    np.testing.assert_array_equal(read, array == 1)
    assert len(caplog.records) == 1
    assert "'tumour bed', 'cord' not named in dataset.json" in caplog.text
    assert "no segment is named Tumor, spinal_cord" in caplog.text


REFUSED = {
    "no name": (
        {1: "a", 2: "b", 3: "c"},
        {},
        r"none of its segments .*holds 'a', 'b', 'c', and dataset.json names left lung, Tumor",
    ),
    "name twice": (
        {1: "tumor", 2: "Tumor", 3: "c"},
        {},
        r"segments 1 \('tumor'\), 2 \('Tumor'\) are all named like the class 'Tumor'",
    ),
    "no type": (SEGMENTS, {"SegmentationType": "OTHER"}, "SegmentationType is OTHER"),
    "frames without places": (SEGMENTS, {"NumberOfFrames": 20}, "20 frames, but the places of 21"),
    "cut off": (SEGMENTS, {"PixelData": b"\0" * 4}, r"frame \d+ cannot be decoded"),
    "no segments": (SEGMENTS, {"SegmentSequence": []}, "segments have no numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_and_finding(tmp_path, ct, case):
    names, attributes, message = REFUSED[case]
    _, frames, cosines, spacing = by_segment(ct)
    path = lf.seg_file(tmp_path / "a.dcm", names, frames, cosines, spacing, **attributes)
    with pytest.raises(ImageError, match=message) as error:
        read_dicom_label(path, grid(ct), NAMES)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_off_the_grid_is_refused_with_the_distance(tmp_path, ct, axis):
    array, frames, cosines, spacing = by_segment(ct)
    step = (LPS @ ct.affine)[:3, axis]
    shifted = [(s, p + 0.3 * step, f) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, shifted, cosines, spacing)
    distance = 0.3 * np.linalg.norm(step)
    with pytest.raises(ImageError, match=rf"up to {distance:.3g} mm off"):
        read_dicom_label(path, grid(ct), NAMES)
    within = [(s, p + 0.04 * step, f) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, within, cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


def test_another_pixel_size_or_direction_is_refused(tmp_path, ct):
    _, frames, cosines, spacing = by_segment(ct)
    for change in (
        (cosines, (spacing[0] * 2, spacing[1] * 2)),
        ((ph.rotation((0, 0, 30)) @ cosines.reshape(2, 3).T).T.ravel(), spacing),
    ):
        path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, frames, *change)
        with pytest.raises(ImageError, match=r"does not lie on the voxels of the CT: .* mm off"):
            read_dicom_label(path, grid(ct), NAMES)


def test_segments_outside_of_the_ct_are_refused_and_empty_borders_are_not(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    step = (LPS @ ct.affine)[:3, 2]
    path = lf.seg_file(
        tmp_path / "a.dcm", SEGMENTS, [(s, p + 2 * step, f) for s, p, f in frames], cosines, spacing
    )
    with pytest.raises(
        ImageError, match=r"\d+ pixels of frame \d+ lie outside of the CT, .*7 planes .*index [78]"
    ):
        read_dicom_label(path, grid(ct), NAMES)
    wide = [(s, p - (LPS @ ct.affine)[:3, 0], np.pad(f, ((0, 3), (1, 2)))) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, wide, cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


def test_one_place_shown_twice_is_refused_unless_it_is_the_same(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    first = next(frame for frame in frames if frame[2].any())
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, [*frames, first], cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)
    other = (first[0], first[1], 1 - first[2])
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, [*frames, other], cosines, spacing)
    with pytest.raises(ImageError, match="another frame shows it differently"):
        read_dicom_label(path, grid(ct), NAMES)


def test_label_map_values_without_a_segment_are_refused(tmp_path, ct):
    frames, cosines, spacing = lf.frames_of(lf.label_map(ct.shape, ct.affine), ct.affine)
    frames = [(0, p, f) for p, f in frames]
    names = {1: "left lung", 2: "tumor"}
    path = lf.seg_file(tmp_path / "a.dcm", names, frames, cosines, spacing, "LABELMAP")
    with pytest.raises(ImageError, match="holds values that no segment of the file has"):
        read_dicom_label(path, grid(ct), NAMES)
    path = lf.seg_file(tmp_path / "a.dcm", names, frames, cosines, spacing, "LABELMAP", PixelPaddingValue=3)
    assert np.unique(read_dicom_label(path, grid(ct), NAMES)).tolist() == [0, 1, 2]


@given(share=st.floats(0, 1), kind=st.sampled_from(["BINARY", "LABELMAP", "written"]))
@some
@pytest.mark.filterwarnings("ignore")
def test_cut_off_anywhere_is_never_read_wrongly(tmp_path, share, kind):
    ct = Phantom(shape=(5, 4, 3))
    array = lf.label_map(ct.shape, ct.affine)
    path = tmp_path / "a.dcm"
    if kind == "written":
        write_series(tmp_path / "ct", ct.slices())
        source = scan_series(tmp_path / "ct")
        write_seg(path, meta_tensor(array, ct.affine), source, NAMES)
    else:
        parts = [(0, array)] if kind == "LABELMAP" else [(index, array == index) for index in SEGMENTS]
        frames = []
        for segment, part in parts:
            cut, cosines, spacing = lf.frames_of(part, ct.affine)
            frames += [(segment, p, f) for p, f in cut]
        lf.seg_file(path, SEGMENTS, frames, cosines, spacing, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * (len(whole) - 1))])
    try:
        read = read_dicom_label(path, grid(ct), NAMES)
    except ImageError:
        return
    np.testing.assert_array_equal(read, array)


@given(place=st.floats(0, 1), value=st.integers(0, 255), kind=st.sampled_from(["BINARY", "FRACTIONAL"]))
@settings(some, max_examples=150)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_raise_nothing_but_image_errors(tmp_path, place, value, kind):
    ct = Phantom(shape=(5, 4, 3))
    path = tmp_path / f"{kind}.dcm"
    if not (tmp_path / kind).exists():
        _, frames, cosines, spacing = by_segment(ct, kind)
        lf.seg_file(tmp_path / kind, SEGMENTS, frames, cosines, spacing, kind, frame_of_reference="1.2.3")
    raw = bytearray((tmp_path / kind).read_bytes())
    raw[132 + int(place * (len(raw) - 133))] = value
    path.write_bytes(raw)
    try:
        read = read_dicom_label(path, grid(ct), NAMES)
    except ImageError:
        return
    assert read.shape == ct.shape


def test_frame_of_reference(tmp_path, ct, caplog):
    slices = ct.slices()
    write_series(tmp_path / "ct", slices)
    _, frames, cosines, spacing = by_segment(ct)

    def read(uid, **attributes):
        path = lf.seg_file(
            tmp_path / "a.dcm", SEGMENTS, frames, cosines, spacing, frame_of_reference=uid, **attributes
        )
        return read_dicom_label(path, grid(ct), NAMES, image=tmp_path / "ct")

    read(slices[0].FrameOfReferenceUID)
    read("")  # states none: nothing to compare
    with pytest.raises(ImageError, match=r"a\.dcm: its frame of reference \(1\.2\.3\) is not that of .*ct"):
        read("1.2.3")
    reference = lf.item(ReferencedSOPInstanceUID=slices[3].SOPInstanceUID)
    assert not caplog.records
    read("1.2.3", SourceImageSequence=[reference])
    assert "states another frame of reference" in caplog.text


def test_folder_with_one_label_and_other_things(tmp_path, ct):
    _, frames, cosines, spacing = by_segment(ct)
    folder = tmp_path / "case"
    write_series(folder, ct.slices())
    (folder / "readme.txt").write_text("nothing")
    with pytest.raises(ImageError, match="no DICOM SEG or RTSTRUCT in this folder"):
        find_dicom_label(folder)
    path = lf.seg_file(folder / "labels" / "a.dcm", SEGMENTS, frames, cosines, spacing)
    assert find_dicom_label(folder) == path
    lf.seg_file(folder / "b", SEGMENTS, frames, cosines, spacing)
    with pytest.raises(ImageError, match=r"2 DICOM label maps .*\(b \(SEG\), labels/a\.dcm \(SEG\)\)"):
        find_dicom_label(folder)
    with pytest.raises(
        ImageError, match=r"IM0000\.dcm: neither a DICOM SEG nor an RTSTRUCT \(CT Image Storage\)"
    ):
        find_dicom_label(folder / "IM0000.dcm")


# --- writing --------------------------------------------------------------------------------------------------------


def meta_tensor(array, affine):
    return MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(affine))


def tool_volume(path: Path, out: Path, segment: int | None = None) -> sitk.Image:
    """Read a SEG with dcmqi: all segments in one volume, or one."""
    tool = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent)) or shutil.which(
        "segimage2itkimage"
    )
    if tool is None:
        pytest.skip("dcmqi is not installed")
    out.mkdir(parents=True, exist_ok=True)
    command = [tool, "--inputDICOM", str(path), "--outputDirectory", str(out)]
    subprocess.run(
        command + (["--mergeSegments"] if segment is None else []), check=True, capture_output=True
    )
    image = sitk.ReadImage(str(out / f"{segment or 1}.nrrd"))
    return image if segment is None else sitk.Cast(image > 0, sitk.sitkUInt8) * segment


def carried(image: sitk.Image, header: Header) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return lf.carried_over(array, LPS @ affine, header.shape, header.affine)


@pytest.fixture(params=["BINARY", "LABELMAP"])
def written(request, tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices(), seed=3)
    series = scan_series(tmp_path / "ct")
    array = lf.label_map(ct.shape, ct.affine)
    array[:, :, [0, 3]] = 0  # frames that are left out, one of them between others
    path = write_seg(
        tmp_path / "out" / "a.dcm", meta_tensor(array, series.affine), series, NAMES, kind=request.param
    )
    return path, array, series


def test_written_seg_in_four_readers(written, tmp_path):
    path, array, series = written
    header = Header(series.shape, 1, series.affine)
    np.testing.assert_array_equal(
        read_dicom_label(path, header, NAMES, image=tmp_path / "ct"), array, "our own reader"
    )
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    found = lf.carried_over(volume.array, LPS @ volume.affine, series.shape, series.affine)
    np.testing.assert_array_equal(found, array, "highdicom")
    found = carried(tool_volume(path, tmp_path / "dcmqi"), header)
    np.testing.assert_array_equal(found, array, "dcmqi")
    dataset = pydicom.dcmread(path)
    assert len(dataset.PerFrameFunctionalGroupsSequence) == (
        5
        if dataset.SegmentationType == "LABELMAP"
        else sum(len(np.unique(np.nonzero(array == c)[2])) for c in (1, 2, 3))
    )
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in (tmp_path / "ct").iterdir()]
    images = {header.SOPInstanceUID: np.asarray(header.ImagePositionPatient, float) for header in headers}
    if dataset.SegmentationType == "BINARY":
        stored = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
        stored = stored[: dataset.NumberOfFrames * 13 * 9].reshape(-1, 9, 13)
    else:
        stored = dataset.pixel_array
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, stored, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        position = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, images[source.ReferencedSOPInstanceUID], atol=1e-6)
        plane = (np.linalg.inv(series.affine) @ LPS @ [*position, 1])[2]
        values = array[:, :, round(plane)].T
        if dataset.SegmentationType == "BINARY":
            number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            values = values == number
        np.testing.assert_array_equal(frame, values, "pydicom")


def test_what_is_said_about_the_segments(written, tmp_path):
    path, _, series = written
    dataset, image = pydicom.dcmread(path), pydicom.dcmread(series.files[0])
    assert dataset.StudyInstanceUID == image.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert dataset.SeriesInstanceUID != image.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 7
    lung, tumor, cord = [s for s in dataset.SegmentSequence if s.SegmentNumber > 0]
    assert [s.SegmentLabel for s in (lung, tumor, cord)] == ["left lung", "Tumor", "spinal_cord"]
    for segment, value, category in (
        (lung, "39607008", "91723000"),
        (tumor, "108369006", "49755003"),
        (cord, "2748008", "91723000"),
    ):
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == value
        assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == category
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "segbundles"
        assert (
            segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmFamilyCodeSequence[0].CodeValue
            == "123110"
        )
    side = lung.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file was left"


@given(tilt=st.floats(-30, 30), degrees=angles, seed=st.integers(0, 99))
@settings(some, max_examples=12)
def test_tilted_and_oblique_sources(tmp_path, tilt, degrees, seed):
    ct = Phantom(shape=(11, 9, 6), tilt=tilt, axes=ph.rotation(degrees))
    shutil.rmtree(tmp_path / "ct", ignore_errors=True)
    write_series(tmp_path / "ct", ct.slices())
    source = scan_series(tmp_path / "ct")
    array = np.random.default_rng(seed).integers(0, 4, ct.shape).astype(np.uint8)
    path = write_seg(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, NAMES)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)
    segments = highdicom.seg.segread(path)  # its frames one by one: a sheared stack is no volume to it
    for number, groups in enumerate(segments.PerFrameFunctionalGroupsSequence, 1):
        position = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        index = (np.linalg.inv(ct.affine) @ LPS @ [*position, 1])[:3]
        np.testing.assert_allclose(index[:2], 0, atol=1e-3)
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(
            segments.get_stored_frame(number).T, array[:, :, round(index[2])] == segment
        )


def test_a_slice_without_a_file(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())[2].unlink()
    source = scan_series(tmp_path / "ct", allow=["missing-slices"])
    assert source.sources[2] is None
    array = lf.label_map(ct.shape, ct.affine)
    path = write_seg(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, NAMES)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_source(tmp_path, ct, shared):
    file = tmp_path / "enhanced.dcm"
    order = [3, 0, 6, 1, 5, 2, 4]  # slice of each frame
    lps = LPS @ ct.affine
    places = {
        "PlaneOrientationSequence": [lf.item(ImageOrientationPatient=list(ct.axes[:, :2].T.ravel()))],
        "PixelMeasuresSequence": [lf.item(PixelSpacing=[0.9, 0.8], SliceThickness=2.5)],
    }
    image = ct.slices()[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData"):
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = 7
    image.SharedFunctionalGroupsSequence = [lf.item(**(places if shared else {}))]
    image.PerFrameFunctionalGroupsSequence = [
        lf.item(
            PlanePositionSequence=[lf.item(ImagePositionPatient=list((lps @ [0, 0, index, 1])[:3]))],
            **({} if shared else places),
        )
        for index in order
    ]
    with pydicom.config.disable_value_validation():
        image.save_as(file, enforce_file_format=True)
    frames = frames_of(file)
    plan = tuple((order.index(index), order.index(index), 0.0) for index in range(7))
    source = Series(tmp_path, ct.shape, ct.affine, tuple(frames), plan)
    array = lf.label_map(ct.shape, ct.affine)
    path = write_seg(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, NAMES)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES, image=file), array)
    for groups in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        frame = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        position = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, (lps @ [0, 0, order[frame - 1], 1])[:3], atol=1e-6)


def test_probabilities_become_fractions(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())
    series = scan_series(tmp_path / "ct")
    chances = np.random.default_rng(0).dirichlet(np.ones(4), ct.shape).transpose(3, 0, 1, 2)
    label = meta_tensor(chances.argmax(0).astype(np.uint8), series.affine)
    path = write_seg(tmp_path / "a.dcm", label, series, NAMES, probabilities=chances)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=False)
    for number in (1, 2, 3):
        found = lf.carried_over(volume.array[..., number - 1], LPS @ volume.affine, ct.shape, ct.affine)
        np.testing.assert_allclose(found, chances[number], atol=0.5 / 255 + 1e-6)
    read = read_dicom_label(path, grid(ct), NAMES)
    for number in (1, 2, 3):
        clear = np.abs(chances[number] - 0.5) > 0.01
        np.testing.assert_array_equal((read == number)[clear], (chances[number] > 0.5)[clear])


def test_own_codes_and_an_empty_label_map(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())
    series = scan_series(tmp_path / "ct")
    empty = meta_tensor(np.zeros(ct.shape, np.uint8), series.affine)
    codes = {"tumor": {"category": ["1", "99X", "Mine"], "type": ["2", "99X", "My tumour"]}}
    path = write_seg(tmp_path / "a.dcm", empty, series, NAMES, codes=codes)
    assert not read_dicom_label(path, grid(ct), NAMES).any()
    segment = pydicom.dcmread(path).SegmentSequence[1]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99X"


def test_not_written(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())
    series = scan_series(tmp_path / "ct")
    array = lf.label_map(ct.shape, ct.affine)
    out = tmp_path / "a.dcm"
    moved = ct.affine.copy()
    moved[0, 3] += 3
    for label, names, message in (
        (meta_tensor(array[1:], series.affine), NAMES, r"shape \(1, 12, 9, 7\), the CT \(1, 13, 9, 7\)"),
        (meta_tensor(array, moved), NAMES, "3 mm off the CT"),
        (
            meta_tensor(array, series.affine),
            {0: "background", 1: "a"},
            r"values \[2, 3\], which have no name",
        ),
        (meta_tensor(array, series.affine), {**NAMES, 5: "x"}, "do not run from 1 without gaps"),
        (meta_tensor(array, series.affine), {**NAMES, 3: "x" * 65}, "64 characters"),
    ):
        with pytest.raises(ImageError, match=message):
            write_seg(out, label, series, names)
        assert not out.exists()


def test_character_sets(tmp_path, ct):
    """The patient's name in the CT's Latin-1, a class in Japanese: both have to be legible."""
    slices = ph.changed(ct.slices(), None, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    write_series(tmp_path / "ct", slices)
    series = scan_series(tmp_path / "ct")
    names = {**NAMES, 1: "肝臓"}
    label = meta_tensor(lf.label_map(ct.shape, ct.affine), series.affine)
    dataset = pydicom.dcmread(write_seg(tmp_path / "a.dcm", label, series, names))
    assert dataset.PatientName == "Müller^Jörg"
    assert dataset.SegmentSequence[0].SegmentLabel == "肝臓"
    np.testing.assert_array_equal(read_dicom_label(tmp_path / "a.dcm", grid(ct), names), label.numpy()[0])


@pytest.mark.parametrize("name", ["seg/ct-3slice", "compressed_ct/CTImage.dcm", "compressed_ct/CT2_J2KR"])
def test_written_for_real_series(shared_data, tmp_path, name):
    source = shared_data / "dicom" / name
    folder = tmp_path / "ct"
    folder.mkdir()
    for file in source.iterdir() if source.is_dir() else [source]:
        shutil.copy(file, folder / f"{file.stem}.dcm")
    series = scan_series(folder)
    label = meta_tensor(lf.label_map(series.shape, series.affine), series.affine)
    path = write_seg(tmp_path / "a.dcm", label, series, NAMES)
    header = read_header(folder)
    np.testing.assert_array_equal(read_label(path, header, NAMES, image=folder).numpy(), label.numpy())
    np.testing.assert_array_equal(carried(tool_volume(path, tmp_path / "dcmqi"), header), label.numpy()[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_patient_and_study_are_copied_letter_by_letter(tmp_path, ct, write):
    """Also what is against the standard: archives put together what is equal."""
    odd = {
        "PatientSex": "Male",
        "PatientBirthDate": "1960-01-01",
        "StudyDate": "20 May",
        "StudyTime": "25:00",
        "PatientName": "Doe",
        "PatientID": "x" * 70,
        "StudyDescription": "a study",
        "AccessionNumber": "7",
        "PatientAge": "064Y",
    }
    write_series(tmp_path / "ct", ph.changed(ct.slices(), None, **odd))
    series = scan_series(tmp_path / "ct")
    label = meta_tensor(lf.label_map(ct.shape, ct.affine), series.affine)
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", label, series, NAMES))
    for keyword, value in odd.items():
        assert str(dataset[keyword].value) == value


@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
def test_compressed_frames(tmp_path, ct, kind):
    array, frames, cosines, spacing = by_segment(ct, kind)
    if kind == "LABELMAP":
        frames = [(0, p, f) for p, f in lf.frames_of(array, ct.affine)[0]]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, frames, cosines, spacing, kind)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)
