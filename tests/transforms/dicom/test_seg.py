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
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import grid, meta_tensor
from tests.dicom_phantom import LPS, Phantom, write_series
from tests.transforms.dicom.seg_frames import NAMES, SEGMENTS, by_segment
from transforms.dicom.labels import read_dicom_label
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series
from transforms.io.readers import Header, ImageError, read_header, read_label

some = settings(max_examples=40)
angles = st.tuples(*[st.floats(-40, 40)] * 3)


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


# --- writing --------------------------------------------------------------------------------------------------------


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


REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "middle": (3,)}


def test_regions_are_segments_that_overlap(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices(), seed=3)
    series = scan_series(tmp_path / "ct")
    array = lf.label_map(ct.shape, ct.affine)
    label = meta_tensor(array, series.affine)
    path = write_seg(tmp_path / "a.dcm", label, series, NAMES, regions=REGIONS)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=False, allow_missing_positions=True)
    grid = Header(series.shape, 1, series.affine)
    for number, (name, members) in enumerate(REGIONS.items()):
        mask = np.isin(array, members)
        found = lf.carried_over(volume.array[..., number], LPS @ volume.affine, series.shape, series.affine)
        np.testing.assert_array_equal(found > 0, mask, "highdicom")
        ours = read_dicom_label(path, grid, {0: "background", 1: name}, image=tmp_path / "ct")
        np.testing.assert_array_equal(ours > 0, mask)
    painted = {value: name for value, name in enumerate(["background", *REGIONS])}
    np.testing.assert_array_equal(read_dicom_label(path, grid, painted), array)
    with pytest.raises(ValueError, match="regions overlap"):
        write_seg(tmp_path / "b.dcm", label, series, NAMES, regions=REGIONS, kind="LABELMAP")
