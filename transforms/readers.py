"""One image file, or one folder of DICOM slices, to a volume in world space.

Every reader returns a :class:`monai.data.MetaTensor` of shape ``(C, X, Y, Z)`` (``(C, X, Y)`` for 2D images) with a
4x4 float64 affine from voxel index to millimetres in RAS+, the convention of MONAI's ``LoadImage`` followed by
``EnsureChannelFirst``. Whatever cannot be read with certainty raises :class:`ImageError`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from transforms.errors import ImageError
from transforms.pictures import picture_header, read_picture

__all__ = [
    "Header",
    "ImageError",
    "image_suffix",
    "is_dicom_label",
    "read_header",
    "read_image",
    "read_label",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".tiff", ".tif", ".jpeg", ".jpg", ".bmp")
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES
READABLE = (
    "NIfTI (.nii, .nii.gz), NRRD, MHA/MHD, DICOM CT (a folder or a file), or a 2D PNG, TIFF, JPEG or BMP"
)

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EXPORT_LAYERS = (
    "the segments overlap and are stored in layers; export them from 3D Slicer as one labelmap"
    " (Segmentations > Export/import > Labelmap) in which no two segments overlap"
)


@dataclass(frozen=True)
class Header:
    """What a file says about its grid.

    Attributes
    ----------
    shape : tuple of int
        Spatial size, ``(X, Y)`` or ``(X, Y, Z)`` in voxels.
    channels : int
        Number of values per voxel.
    affine : numpy.ndarray
        4x4 float64, voxel index to millimetres, RAS+.
    """

    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray


def image_suffix(path: str | Path) -> str:
    """Return the known file ending of ``path`` in lower case (``.nii.gz``, ``.png`` ...), or ``""``."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_image(
    path: str | Path,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> MetaTensor:
    """Read an image.

    Parameters
    ----------
    path : str or Path
        NIfTI, NRRD, MHA/MHD, a folder of DICOM slices or one DICOM file, or a 2D PNG, TIFF, JPEG or BMP.
    channels : int, optional
        State that the fourth axis of a 4D file holds this many channels (MSD data sets with several modalities).
        Without it a fourth axis longer than one is taken for time and refused.
    series, allow
        DICOM: which volume of several, and which irregularities are let in; see
        :func:`transforms.dicom.scan_series`. `series` is an error for any other image, `allow` is without meaning.

    Returns
    -------
    MetaTensor
        ``(C, X, Y, Z)`` or ``(C, X, Y)``. Integers stay integers (int16 if the values fit, else int32), everything
        else is float32. The memory order is that of the file. For DICOM the meta data hold ``series_uid``.

    Raises
    ------
    ImageError
        If the file is missing, damaged, of an unknown kind, has no certain orientation, or holds NaN or infinity.
    """
    path = Path(path)
    if _is_dicom(path):
        from transforms.dicom import read_series, scan_series

        found = scan_series(path, series, allow)
        array, affine = read_series(found)
        image = _meta_tensor(path, array[None], affine)
        image.meta["series_uid"] = found.uid
        return image
    _require_no_series(path, series)
    array, affine = _reader(path)(path, channels, label=False)
    array = compact(array)
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ImageError(
                f"{path}: {bad} of {array.size} voxels are NaN or infinite; repair the file (for instance set them"
                " to the value of air) or leave the case out."
            )
    return _meta_tensor(path, array, affine)


def is_dicom_label(path: str | Path) -> bool:
    """Whether a label is to be read as DICOM SEG or RTSTRUCT: a folder, or a file without a known image ending."""
    path = Path(path)
    return path.exists() and (path.is_dir() or image_suffix(path) == "")


def read_label(
    path: str | Path,
    grid: Header | None = None,
    labels: Mapping[int, str] | None = None,
    *,
    image: str | Path | None = None,
) -> MetaTensor:
    """Read a label map of integer class ids.

    Parameters
    ----------
    path : str or Path
        NIfTI, NRRD, MHA/MHD or a 2D picture; or a DICOM SEG or RTSTRUCT (file, or folder with exactly one).
    grid : Header, optional
        Grid of the image, as :func:`read_header` gives it; a DICOM label is read onto it, others state their own.
    labels : mapping of int to str, optional
        Class id to name, by which the segments of a DICOM label get their class ids.
    image : str or Path, optional
        The image itself, whose frame of reference a DICOM label must have.

    Returns
    -------
    MetaTensor
        ``(1, X, Y, Z)`` or ``(1, X, Y)``; uint8 if the values fit, else uint16, else int32. A colour picture whose
        channels are equal counts as grey; a palette picture gives its indices.

    Raises
    ------
    ImageError
        As :func:`read_image`, and for fractional values or more than one channel.
    """
    path = Path(path)
    if is_dicom_label(path):
        from transforms.dicom_labels import find_dicom_label, read_dicom_label

        path = find_dicom_label(path)
        if grid is None or labels is None:
            raise ImageError(
                f"{path}: a DICOM label map needs the grid of its image and the names of the classes; give both."
            )
        placed = read_dicom_label(path, grid, labels, image=image)
        return _meta_tensor(path, placed[None], np.asarray(grid.affine))
    array, affine = _reader(path)(path, None, label=True)
    if array.shape[0] > 1 and image_suffix(path) in PICTURE_SUFFIXES and (array == array[:1]).all():
        array = array[:1]
    if array.shape[0] != 1:
        raise ImageError(
            f"{path}: a label map has one channel, this file has {array.shape[0]}; store one class id per voxel."
        )
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        fractional = int(np.count_nonzero(rounded != array))  # NaN differs from itself; infinity does not
        fractional += int(np.count_nonzero(np.isinf(array)))
        if fractional:
            raise ImageError(
                f"{path}: {fractional} voxels of this label map are not whole numbers; it was probably resampled"
                " with interpolation or is a probability map. Use the original class ids."
            )
        array = rounded
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return _meta_tensor(path, array.astype(dtype), affine)
    raise ImageError(f"{path}: label values {low} to {high} do not fit 32 bits; these are no class ids.")


def read_header(
    path: str | Path,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> Header:
    """Read the grid of an image without its pixel data (DICOM: the headers of all slices, checked).

    The parameters are those of :func:`read_image`.

    Raises
    ------
    ImageError
        As :func:`read_image`, for everything that the header shows.
    """
    path = Path(path)
    if _is_dicom(path):
        from transforms.dicom import scan_series

        found = scan_series(path, series, allow)
        return Header(found.shape, 1, found.affine)
    _require_no_series(path, series)
    suffix = _known_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        with _nifti_stream(path) as stream:
            header = _nifti_header(path, stream)
        count, shape = _nifti_shape(path, header, channels)
        return Header(shape, count, _nifti_affine(path, header))
    if suffix in ITK_SUFFIXES:
        return _itk_header(path, channels)
    size, count, affine = picture_header(path)
    return Header(size, count, affine)


def _reader(path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    if _is_dicom(path):
        raise ImageError(f"{path}: DICOM slices are an image, not a label map; give a NIfTI or NRRD label.")
    suffix = _known_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti
    return _read_itk if suffix in ITK_SUFFIXES else _read_picture


def _is_dicom(path: Path) -> bool:
    """Whether `path` is for the DICOM reader: a folder, or a file of no other kind that is DICOM."""
    if path.is_dir():
        return True
    if image_suffix(path) or not path.is_file():
        return False
    from transforms.dicom_headers import is_dicom

    return is_dicom(path)


def _require_no_series(path: Path, series: str | int | None) -> None:
    if series is not None and path.exists():
        raise ImageError(
            f"{path}: --series '{series}' chooses one of several DICOM series, and this is no DICOM; leave it out."
        )


def _known_suffix(path: Path) -> str:
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder.")
    suffix = image_suffix(path)
    if suffix:
        return suffix
    raise ImageError(f"{path}: not a known image format; readable are {READABLE}.")


def _meta_tensor(path: Path, array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    if array.dtype == np.uint16 and not hasattr(torch, "uint16"):
        array = array.astype(np.int32)
    affine = np.ascontiguousarray(affine, dtype=np.float64)
    meta: dict[str, Any] = {
        "filename_or_obj": str(path),
        "original_affine": affine.copy(),
        "spatial_shape": np.asarray(array.shape[1:]),
        "original_channel_dim": 0,
        "space": "RAS",
    }
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy(order="K")
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=meta)


def compact(array: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """Apply ``slope * array + intercept`` and keep the smallest exact type: int16, int32, else float32."""
    whole = array.dtype.kind in "iub" and slope == 1.0 and float(intercept).is_integer()
    if whole and array.size:
        shift = int(intercept)
        low, high = int(array.min()) + shift, int(array.max()) + shift
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                if shift == 0:
                    return array.astype(dtype, copy=False)
                out = np.empty_like(array, dtype=dtype)
                for index in range(array.shape[-1]):
                    out[..., index] = array[..., index].astype(np.int64) + shift
                return out
    if slope == 1.0 and intercept == 0.0:
        return array.astype(np.float32, copy=False)
    out = np.empty_like(array, dtype=np.float32)
    for index in range(array.shape[-1]):  # by slice: the float64 product never exists as a whole volume
        out[..., index] = array[..., index].astype(np.float64) * slope + intercept
    return out


def _check_affine(path: Path, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise ImageError(
            f"{path}: the affine has no inverse ({np.array2string(affine[:3, :3], precision=4)}); convert the image"
            " again from its source."
        )
    return affine


def _read_picture(path: Path, channels: int | None, label: bool) -> tuple[np.ndarray, np.ndarray]:
    return read_picture(path, label)


# --- NIfTI ----------------------------------------------------------------------------------------------------------


def _nifti_stream(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _nifti_header(path: Path, stream: IO[bytes]) -> nib.Nifti1Header:
    """Parse without nibabel's own check, which takes longer than all the rest and only logs most findings."""
    try:
        first = stream.read(4)
        stream.seek(0)
        size = {int.from_bytes(first, "little"), int.from_bytes(first, "big")}
        kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
        header = kind.from_fileobj(stream, check=False)
        known = bytes(header["magic"])[:3] in (b"n+1", b"n+2", b"ni1", b"ni2") and size & {348, 540}
        header.get_data_dtype()
    except (EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{path}: the file is damaged or cut off ({error}); copy or convert it again."
        ) from error
    except (nib.wrapstruct.WrapStructError, nib.spatialimages.HeaderDataError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: not a NIfTI file ({error}).") from error
    if not known:
        raise ImageError(f"{path}: not a NIfTI file (its header has no magic number).")
    if abs(header["pixdim"][0]) != 1:  # the standard's qfac; 0 is written by many and stands for 1
        header["pixdim"][0] = 1
    return header


def _nifti_shape(path: Path, header: nib.Nifti1Header, channels: int | None) -> tuple[int, tuple[int, ...]]:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "complex numbers" if dtype.kind == "c" else "RGB colours"
        raise ImageError(f"{path}: voxels are {kind}; convert the image to one number per voxel.")
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or 0 in shape:
        raise ImageError(f"{path}: not an image, its size is {shape}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) <= 3:
        return 1, shape
    count = int(np.prod(shape[3:]))
    vector = int(header["intent_code"]) == 1007 and len(shape) == 5 and shape[3] == 1  # NIFTI_INTENT_VECTOR
    if not vector and (len(shape) != 4 or count != channels):
        wanted = "" if channels in (None, 1) else f" and {channels} channels were expected"
        raise ImageError(
            f"{path}: the image has {len(shape)} axes {shape}{wanted}; if the fourth axis is time, export one time"
            ' point; if it holds channels, name as many of them under "modality" in dataset.json.'
        )
    return count, shape[:3]


def _nifti_affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code == 0 and qform_code == 0:
        raise ImageError(
            f"{path}: the file states no orientation (sform_code and qform_code are 0), so left and right are"
            " unknown; convert it again from its source, or set the sform once you know the orientation."
        )
    try:
        unit = header.get_xyzt_units()[0]
        forms = [
            form
            for form in (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0])
            if form is not None
        ]
    except (ValueError, KeyError, nib.spatialimages.HeaderDataError) as error:
        raise ImageError(
            f"{path}: the orientation in the header is broken ({error}); convert it again."
        ) from error
    if unit in ("meter", "micron"):
        raise ImageError(f"{path}: the header counts in {unit}s; rewrite it in millimetres.")
    affines = [_check_affine(path, form) for form in forms]
    if np.linalg.det(affines[0][:3, :3]) * np.linalg.det(affines[-1][:3, :3]) < 0:
        raise ImageError(
            f"{path}: sform and qform are mirror images of each other, so left and right are uncertain; find out"
            " which one is right and write it to both."
        )
    return affines[0]  # the sform where both are there, as nibabel, MONAI and nnU-Net do


def _read_nifti(path: Path, channels: int | None, label: bool) -> tuple[np.ndarray, np.ndarray]:
    with closing(_nifti_stream(path)) as stream:
        header = _nifti_header(path, stream)
        count, shape = _nifti_shape(path, header, channels)
        affine = _nifti_affine(path, header)
        if bytes(header["magic"])[:2] != b"n+":
            raise ImageError(
                f"{path}: the voxels lie in a separate .img file; convert the pair to one .nii.gz."
            )
        try:
            stream.seek(0)
            proxy = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
            array = np.asanyarray(proxy.get_unscaled())
            if isinstance(stream, gzip.GzipFile):
                while stream.read(1 << 20):  # the checksum stands at the end and is only compared there
                    continue
        except (EOFError, zlib.error, OSError, ValueError, nib.spatialimages.HeaderDataError) as error:
            raise ImageError(
                f"{path}: the file is damaged or cut off ({error}); copy or convert it again."
            ) from error
    array = array.reshape((*shape, count), order="F")
    array = np.moveaxis(array, -1, 0)
    if proxy.slope != 1.0 or proxy.inter != 0.0:
        array = compact(array, float(proxy.slope), float(proxy.inter))
    return array.astype(array.dtype.newbyteorder("="), copy=False), affine


# --- NRRD, MHA, MHD (SimpleITK) -------------------------------------------------------------------------------------


def _text_header(path: Path) -> dict[str, str]:
    """Return the keys of a NRRD or MetaImage header in lower case; both are lines of text before the data."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        for number, raw in enumerate(stream):
            line = raw[:4096].decode("latin-1").strip()
            nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
            if nrrd and number == 0 and not line.startswith("NRRD"):
                raise ImageError(f"{path}: not a NRRD file.")
            if not line and nrrd:
                break
            key, found, value = line.partition(":" if nrrd else "=")
            if found and not line.startswith("#"):
                fields[key.strip().lower()] = value.lstrip("=").strip()
            if not nrrd and key.strip().lower() == "elementdatafile":
                break
            if number > 100_000:
                raise ImageError(f"{path}: the text header has no end; the file is damaged.")
    return fields


def _check_text_header(path: Path) -> None:
    fields = _text_header(path)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        kinds = fields.get("kinds", "").split()
        sizes = fields.get("sizes", "").split()
        if "segment0_id" in fields and len(sizes) > 3 and sizes[0] != "1":
            raise ImageError(f"{path}: {_EXPORT_LAYERS}.")
        if "complex" in kinds:
            raise ImageError(
                f"{path}: voxels are complex numbers; convert the image to one number per voxel."
            )
        space = fields.get("space", "").lower().replace("-", " ")
        known = (
            "right anterior superior",
            "left anterior superior",
            "left posterior superior",
            "ras",
            "las",
            "lps",
        )
        if _axis_count(path, fields, "dimension") > 2 and (
            space not in known or "space directions" not in fields
        ):
            raise ImageError(
                f"{path}: the file states no anatomical orientation (space: {space or 'absent'}), so left and right"
                " are unknown; convert it again from its source."
            )
    else:
        stated = {"transformmatrix", "rotation", "orientation"} & fields.keys()
        if _axis_count(path, fields, "ndims") > 2 and not stated:
            raise ImageError(
                f"{path}: the file states no orientation (no TransformMatrix), so left and right are unknown;"
                " convert it again from its source."
            )


def _axis_count(path: Path, fields: dict[str, str], key: str) -> int:
    text = fields.get(key, "0")
    try:
        return int(text)
    except ValueError:
        raise ImageError(f"{path}: the header states '{text}' axes ({key}); the file is damaged.") from None


def _itk_layout(path: Path, image: Any, count: int, channels: int | None) -> Header:
    size = tuple(int(n) for n in image.GetSize())
    dimension = len(size)
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(dimension, dimension)
    matrix = direction * np.asarray(image.GetSpacing(), dtype=np.float64)
    origin = np.asarray(image.GetOrigin(), dtype=np.float64)
    if dimension == 4:
        if count != 1 or (size[3] != 1 and size[3] != channels):
            raise ImageError(
                f"{path}: the image has 4 axes {size}; if the fourth axis is time, export one time point; if it"
                ' holds channels, name as many of them under "modality" in dataset.json.'
            )
        count = size[3]
    spatial = min(dimension, 3)
    affine = np.eye(4)
    affine[:spatial, :spatial] = matrix[:spatial, :spatial]
    affine[:spatial, 3] = origin[:spatial]
    return Header(size[:spatial], count, _check_affine(path, _LPS_TO_RAS @ affine))


def _itk_header(path: Path, channels: int | None) -> Header:
    import SimpleITK as sitk

    _check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(f"{path}: the header cannot be read ({_itk_reason(error)}).") from error
    return _itk_layout(path, reader, int(reader.GetNumberOfComponents()), channels)


def _itk_reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Reason:")]  # errno of some earlier call
    return lines[-1] if lines else "no reason given"


def _read_itk(path: Path, channels: int | None, label: bool) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    _check_text_header(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ImageError(f"{path}: the file is damaged or cut off ({_itk_reason(error)}).") from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise ImageError(f"{path}: voxels are complex numbers; convert the image to one number per voxel.")
    layout = _itk_layout(path, image, int(image.GetNumberOfComponentsPerPixel()), channels)
    array = sitk.GetArrayFromImage(image)  # (Z, Y, X[, C]), a fourth axis comes first
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() < 4:
        array = array[None]
    return array.transpose(0, *range(array.ndim - 1, 0, -1)), layout.affine
