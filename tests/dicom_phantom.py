"""A known field of Hounsfield units in world space, written as a DICOM CT series or as other files.

The field is a function of millimetres (RAS+), so that a reader is right exactly when the values it returns, at the
places where its affine puts them, are those of the field: no second reader is needed to compare with.

A series is a list of pydicom data sets, one a slice, in the order of their positions. What is to be wrong with it is
done to that list by the small functions below (or by hand), and `write_series` writes it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import settings
from pydicom import config, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests import dicom_phantom as ph
from transforms.dicom.series import find_volumes

some = settings(max_examples=25)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def hounsfield(world: np.ndarray) -> np.ndarray:
    """Return the field at points in mm (RAS+, shape ``(..., 3)``): smooth, between -1000 and 1000, nowhere symmetric."""
    x, y, z = np.moveaxis(np.asarray(world, dtype=np.float64), -1, 0)
    return (
        300 * np.sin(0.031 * x + 0.4)
        + 250 * np.sin(0.043 * y - 0.2)
        + 200 * np.cos(0.037 * z + 0.9)
        + 0.7 * z % 50
    )


def world_grid(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Return the centres of all voxels in mm, ``(*shape, 3)``."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def assert_in_world(array: np.ndarray, affine: np.ndarray, step: float = 1.0) -> None:
    """Every voxel has the value of the field at the place where the affine puts it, to half a stored step."""
    expected = hounsfield(world_grid(array.shape, affine))
    np.testing.assert_allclose(array, expected, atol=0.5 * step + 1e-3)


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """Return the rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Phantom:
    """Geometry and encoding of a series.

    Attributes:
        shape: columns, rows, slices.
        spacing: mm between columns, rows and slices (the last along the normal).
        axes: 3x3, columns: direction of growing column, row and slice index in LPS+.
        origin: first voxel in LPS+ mm.
        slopes, intercepts: modality LUT, repeated over the slices.
        tilt: gantry tilt in degrees: slices shift along the columns as they go on.
        bits: BitsStored.
        signed: PixelRepresentation.
    """

    shape: tuple[int, int, int] = (12, 9, 7)
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.5)
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    origin: tuple[float, float, float] = (-31.5, 12.25, -100.75)
    slopes: Sequence[float] = (1.0,)
    intercepts: Sequence[float] = (-1024.0,)
    tilt: float = 0.0
    bits: int = 16
    signed: bool = False

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel (column, row, slice) to mm, RAS+."""
        lps = np.eye(4)
        lps[:3, :3] = self.axes * np.asarray(self.spacing)
        lps[:3, 2] += np.tan(np.radians(self.tilt)) * self.spacing[2] * self.axes[:, 1]
        lps[:3, 3] = self.origin
        return LPS @ lps

    def slices(self) -> list[FileDataset]:
        """Return the series, in the order of position."""
        rng = random.Random(0)
        series, study, frame = (
            generate_uid(entropy_srcs=[name, repr(self)])[:50] for name in ("series", "study", "frame")
        )
        world = world_grid(self.shape, self.affine)
        result = []
        for index in range(self.shape[2]):
            slope = self.slopes[index % len(self.slopes)]
            intercept = self.intercepts[index % len(self.intercepts)]
            stored = np.rint((hounsfield(world[:, :, index]) - intercept) / slope)
            image = _blank(CTImageStorage, f"{series}.{index + 1}")
            image.Modality = "CT"
            image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
            image.SeriesDescription = "phantom"
            image.InstanceNumber = rng.randrange(10_000)  # decides nothing
            image.ImagePositionPatient = [decimal(v) for v in (LPS @ self.affine @ [0, 0, index, 1])[:3]]
            image.ImageOrientationPatient = [decimal(v) for v in self.axes[:, :2].T.ravel()]
            image.PixelSpacing = [decimal(self.spacing[1]), decimal(self.spacing[0])]
            image.SliceThickness = decimal(self.spacing[2])
            image.RescaleSlope, image.RescaleIntercept = decimal(slope), decimal(intercept)
            image.RescaleType = "HU"
            image.SamplesPerPixel = 1
            image.PhotometricInterpretation = "MONOCHROME2"
            image.BitsAllocated, image.BitsStored, image.HighBit = 16, self.bits, self.bits - 1
            image.PixelRepresentation = int(self.signed)
            low, high = (
                (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)
            )
            assert low <= stored.min(), "the phantom needs other bits, slope or intercept"
            assert stored.max() <= high, "the phantom needs other bits, slope or intercept"
            set_pixels(image, stored.T.astype(np.int64) & (2**self.bits - 1))
            result.append(image)
        return result


def decimal(value: float) -> str:
    return f"{float(value):.12f}"[:16]  # a decimal string has 16 characters


def _blank(sop_class: UID, instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = sop_class, UID(instance)
    return image


def set_pixels(image: FileDataset, stored: np.ndarray) -> None:
    """Put ``(rows, columns)`` stored values into a slice, 16 bits each."""
    image.Rows, image.Columns = stored.shape
    image.PixelData = stored.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"


def write_series(
    folder: Path,
    slices: Sequence[FileDataset],
    seed: int | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    depth: int = 0,
) -> list[Path]:
    """Write slices as files and return their paths, in the order given.

    Names are shuffled when a seed is given; with a depth files lie in nested subfolders.
    """
    random_ = random.Random(seed)
    numbers = list(range(len(slices)))
    if seed is not None:
        random_.shuffle(numbers)
    paths = []
    for number, image in zip(numbers, slices, strict=True):
        below = [f"part {random_.randrange(3)}" for _ in range(random_.randrange(depth + 1))]
        path = folder.joinpath(*below) / f"IM{number:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = copy.deepcopy(image)
        if "PixelData" not in image or not image.get("ImagePositionPatient"):  # no slice: left as it is
            _save(image, path, ExplicitVRLittleEndian)
        elif syntax in (JPEGLossless, JPEGLosslessSV1):
            _save(image, path, ExplicitVRLittleEndian)
            transcode(path, syntax)
        elif syntax.is_encapsulated:
            image.compress(syntax, generate_instance_uid=False)
            _save(image, path, syntax)
        else:
            if not syntax.is_little_endian:
                image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
            _save(image, path, syntax)
        paths.append(path)
    return paths


def _save(image: FileDataset, path: Path, syntax: UID) -> None:
    image.file_meta.TransferSyntaxUID = syntax
    before, config.settings.writing_validation_mode = (
        config.settings.writing_validation_mode,
        config.IGNORE,
    )
    try:  # wrong values are the point of some tests
        dcmwrite(
            path,
            image,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            **{"enforce_file_format" if syntax.is_little_endian else "force_encoding": True},
        )
    finally:
        config.settings.writing_validation_mode = before


def transcode(path: Path, syntax: UID) -> None:
    """Compress a single-frame file in place with GDCM (which would rewrite the functional groups of an enhanced one)."""
    import gdcm  # not at the top: loaded before Python's zlib it replaces its symbols, and zlib.compress crashes

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def strip_preamble(path: Path, meta: bool = True) -> None:
    """Cut off the preamble and the prefix of PS3.10, and the file meta information too."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[140:144], "little") + 12 if meta else 0
    path.write_bytes(raw[132 + length :])


# --- what can be wrong with a series ---------------------------------------------------------------------------------


def without(slices: list[FileDataset], *indices: int) -> list[FileDataset]:
    """Leave slices out."""
    return [image for index, image in enumerate(slices) if index not in indices]


def changed(slices: list[FileDataset], index: int | None, **values: object) -> list[FileDataset]:
    """Set attributes of one slice (None: of all); a value of None deletes the attribute."""
    result = copy.deepcopy(slices)
    for image in result if index is None else [result[index]]:
        for keyword, value in values.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
    return result


def moved(slices: list[FileDataset], index: int, shift: Sequence[float]) -> list[FileDataset]:
    """Shift the position of one slice by mm (LPS+)."""
    position = np.asarray(slices[index].ImagePositionPatient, dtype=float) + np.asarray(shift)
    return changed(slices, index, ImagePositionPatient=[decimal(v) for v in position])


def duplicated(
    slices: list[FileDataset], index: int, same_instance: bool = True, other_values: bool = False
) -> list[FileDataset]:
    """Add a slice a second time: the same image, perhaps as a new instance; or another at the same place."""
    twin = copy.deepcopy(slices[index])
    if other_values:
        twin.PixelData = bytes(reversed(twin.PixelData))
    if other_values or not same_instance:
        twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = UID(f"{twin.SOPInstanceUID}.2")
    return [*slices, twin]


def second_series(slices: list[FileDataset]) -> list[FileDataset]:
    """Add the whole series again on the same grid under another SeriesInstanceUID."""
    other = changed(
        slices, None, SeriesInstanceUID=f"{slices[0].SeriesInstanceUID}.9", SeriesDescription="other kernel"
    )
    for image in other:
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{image.SOPInstanceUID}.9")
    return [*slices, *other]


def localizer(slices: list[FileDataset]) -> list[FileDataset]:
    """Add a scout view with the same SeriesInstanceUID: a sagittal plane."""
    scout = copy.deepcopy(slices[0])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = UID(f"{scout.SOPInstanceUID}.7")
    return [scout, *slices]


def other_size(slices: list[FileDataset], index: int) -> list[FileDataset]:
    """Give one slice twice as many rows."""
    result = copy.deepcopy(slices)
    image = result[index]
    set_pixels(image, np.zeros((2 * image.Rows, image.Columns), dtype=np.uint16))
    return result


def jittered(slices: list[FileDataset], scale: float, seed: int = 0) -> list[FileDataset]:
    """Add noise to the direction cosines of every slice."""
    rng = np.random.default_rng(seed)
    result = copy.deepcopy(slices)
    for image in result:
        noisy = np.asarray(image.ImageOrientationPatient, dtype=float) + rng.uniform(-scale, scale, 6)
        image.ImageOrientationPatient = [decimal(v) for v in noisy]
    return result


def phases(slices: list[FileDataset], shift: int = 100, **values: Sequence[object]) -> list[FileDataset]:
    """Repeat a series at the same places, once for each value of the attributes, every time `shift` HU brighter."""
    result = []
    for number in range(len(next(iter(values.values())))):
        part = changed(slices, None, **{keyword: values[keyword][number] for keyword in values})
        for image in part:
            stored = np.frombuffer(image.PixelData, "<u2") + number * shift
            image.PixelData = stored.astype("<u2").tobytes()
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(
                f"{image.SOPInstanceUID}.{number}"
            )
        result += part
    return result


def padded(slices: list[FileDataset], stored: int, where: np.ndarray, **values: object) -> list[FileDataset]:
    """Write a stored value, 16 bits as they are, where a mask (columns, rows) says, and set attributes."""
    result = changed(slices, None, **values)
    for image in result:
        pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns).copy()
        pixels[where.T] = stored % 65536
        set_pixels(image, pixels)
    return result


def tag(image: FileDataset, keyword: str, bits: int, vr: str = "US") -> None:
    """Set an attribute of VR "US or SS" to 16 bits with the VR asked for, right or wrong."""
    if vr == "SS":
        bits -= 65536 if bits >= 32768 else 0
    image.add_new(keyword, vr, bits)


def multi_frame(
    slices: Sequence[FileDataset],
    sop_class: UID = EnhancedCTImageStorage,
    shared: Sequence[str] = ("PlaneOrientationSequence", "PixelMeasuresSequence"),
    number: int = 1,
) -> FileDataset:
    """Pack slices into one enhanced CT (PS3.3 A.38); what is equal for all may stand in the shared groups."""
    image = copy.deepcopy(slices[0])
    instance = UID(f"{image.SeriesInstanceUID}.8.{number}")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = instance
    image.NumberOfFrames = len(slices)
    image.PixelData = b"".join(item.PixelData for item in slices)
    image["PixelData"].VR = "OW"
    groups = [_functional_groups(item) for item in slices]
    common = Dataset()
    for keyword in shared:
        setattr(common, keyword, getattr(groups[0], keyword))
        for group in groups:
            delattr(group, keyword)
    image.SharedFunctionalGroupsSequence = [common]
    image.PerFrameFunctionalGroupsSequence = groups
    for names in GROUPS.values():
        for keyword in names:
            if keyword in image:
                delattr(image, keyword)
    return image


GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "FrameContentSequence": (
        "StackID",
        "TemporalPositionIndex",
        "FrameAcquisitionNumber",
        "FrameAcquisitionDateTime",
    ),
}


def _functional_groups(image: FileDataset) -> Dataset:
    groups = Dataset()
    for sequence, names in GROUPS.items():
        item = Dataset()
        for keyword in names:
            if keyword in image:
                setattr(item, keyword, getattr(image, keyword))
        if len(item):
            setattr(groups, sequence, [item])
    frame_type = Dataset()
    frame_type.FrameType = image.ImageType
    groups.CTImageFrameTypeSequence = [frame_type]
    return groups


def secondary_capture(
    slices: list[FileDataset], sop_class: UID = SecondaryCaptureImageStorage
) -> list[FileDataset]:
    """Add a dose report: a picture that calls itself CT and has no place in space (its position is empty)."""
    report = copy.deepcopy(slices[0])
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = sop_class
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(f"{report.SOPInstanceUID}.6")
    report.SeriesInstanceUID = f"{report.SeriesInstanceUID}.6"
    report.ImageType = ["DERIVED", "SECONDARY"]
    report.ImagePositionPatient = []
    for keyword in ("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(report, keyword)
    return [report, *slices]


def structure_set(slices: list[FileDataset]) -> list[FileDataset]:
    """Add an RTSTRUCT to the folder."""
    other = _blank(RTStructureSetStorage, f"{slices[0].SOPInstanceUID}.5")
    other.Modality = "RTSTRUCT"
    other.SeriesInstanceUID = f"{slices[0].SeriesInstanceUID}.5"
    return [*slices, other]


def between(slices, shift=500, **values):
    """Two scans at half the slice distance between one another, the second `shift` HU brighter; in order of position."""
    slices = ph.phases(slices, shift, **values) if values else ph.phases(slices, shift, ImageType=["A", "A"])
    half = len(slices) // 2
    for index in range(half, 2 * half):
        slices = ph.moved(slices, index, (0, 0, 1.25))
    return [image for pair in zip(slices[:half], slices[half:], strict=True) for image in pair]


def number_of(folder, image):
    """Number of the volume that a slice is in."""
    (number,) = (
        volume.number
        for volume in find_volumes(folder)
        if any(frame.text("SOPInstanceUID") == image.SOPInstanceUID for frame in volume.frames)
    )
    return number
