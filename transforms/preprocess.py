"""Preprocessing: from the grid of a file to the grid of the network, and back.

The patch store, validation, evaluation and inference all use this class, so that a model always gets the same
voxels.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, final

import numpy as np
import torch
from monai.data import MetaTensor

from transforms.errors import ImageError, SettingError
from transforms.hounsfield import warn_unless_hounsfield
from transforms.intensity import (
    CTWindow,
    Intensity,
    IntensityParameters,
    IntensityRecord,
    PerChannel,
    intensity_for,
    intensity_from,
)
from transforms.io.grids import require_grid
from transforms.io.header import Header
from transforms.io.readers import ImagePath, Original, files_of, read_label, read_original
from transforms.label_values import check_label_values, counts_of
from transforms.spatial.geometry import (
    Box,
    Geometry,
    GeometryError,
    GeometryRecord,
    cropped,
    cut,
    orient,
    resampled,
    to_oriented,
)
from transforms.spatial.resample import resample, resample_labels
from transforms.spatial.restore import Restorer, slab_axis
from transforms.spatial.shear import straighten, straighten_labels

if TYPE_CHECKING:
    from typing import NotRequired

PathLike = str | os.PathLike
VERSION, CHANNELS_VERSION = 2, 3
"""2: a CT is clipped to its window before it is interpolated, 1: after. Models of version 1 keep to it. 3: as 2, but
what is done to intensities, and the padding, are of each channel."""


class Prepared(NamedTuple):
    """An image on the network's grid.

    Attributes:
        codes: int16 (C, X, Y, Z) or (C, X, Y), see `Preprocess.normalise`.
        geometry: how this grid lies on the file's.
        intensity: what `normalise` needs to know of this image, plain JSON types.
    """

    codes: np.ndarray
    geometry: Geometry
    intensity: IntensityRecord


@final
class PreparedCase(TypedDict):
    """A case as a network gets it.

    Attributes:
        image: float32 (1, C, *grid).
        label: integer classes (1, *file shape) on the grid of its file, of a case that has a label.
        geometry: how the grid of the image lies on that of its file.
        padding: what lies around the image, one value for every channel, for the sliding window.
        case: id.
        path: of the image, where it is of a file; of several the first.
        original: the image as it was read, where it is asked for.
        ignore: value of voxels in the label that nobody has annotated, where the dataset has one.
        inside: bool (1, *file shape), the voxels that metrics count, such as a field of view; absent where all do.
    """

    image: torch.Tensor
    label: NotRequired[MetaTensor]
    geometry: GeometryRecord
    padding: NotRequired[list[float]]
    case: str
    path: NotRequired[str]
    original: NotRequired[Original]
    ignore: NotRequired[int]
    inside: NotRequired[torch.Tensor]


class PreprocessParameters(TypedDict):
    """A `Preprocess` in plain JSON types, see there."""

    version: int
    orientation: Literal["RAS"]
    spacing: list[float | None] | float | None
    intensity: IntensityParameters
    crop_above: float | None
    crop_margin: float
    channels: int


class Preprocess:
    """Orientation to RAS, foreground crop, resampling and intensity, with the way back.

    Args:
        spacing: millimetres per voxel along R, A, S (one number, or one per axis; None keeps the file's).
        window: (lower, upper) HU, clipped and scaled to [-1, 1]; None normalises each image to zero mean and
            unit deviation, for images without physical units.
        crop_above: crop the image to the box around all voxels above this value (HU; in a CT, voxels above -500
            are the patient and the table), so that no time is spent on air; only CT channels count if there are any.
            None keeps the whole image.
        crop_margin: millimetres kept around that box.
        channels: number of channels every image must have.
        normalization: nnU-Net's word for each channel, or one for all: "CT" (the window), "zscore",
            "rescale_to_0_1", "rgb_to_0_1", "noNorm" (values as they are), in upper or lower case; any other word,
            such as "T1", means "zscore". None: CT where there is a window, else "zscore".

    Raises:
        SettingError: the window is none, or there are not as many words as channels.

    Examples:
        >>> preprocess = Preprocess(spacing=2.0, window=(-1000, 1000))
        >>> values = torch.linspace(-1000, 1000, 512).reshape(1, 8, 8, 8)
        >>> prepared = preprocess.volume(MetaTensor(values, affine=torch.eye(4)))  # voxels of 1 mm
        >>> preprocess.normalise(prepared.codes, prepared.intensity).shape
        torch.Size([1, 4, 4, 4])
        >>> preprocess.restore(torch.zeros(2, 4, 4, 4), prepared.geometry).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        spacing: Sequence[float | None] | float | None = None,
        window: Sequence[float] | None = (-1000.0, 1000.0),
        crop_above: float | None = None,
        crop_margin: float = 10.0,
        channels: int = 1,
        normalization: Sequence[str] | str | None = None,
    ) -> None:
        self.spacing = (
            spacing if spacing is None or isinstance(spacing, (int, float)) else tuple(s for s in spacing)
        )
        self.crop_above = crop_above
        self.crop_margin = float(crop_margin)
        self.channels = int(channels)
        self.intensity: Intensity = intensity_for(normalization, window, self.channels)
        self.version = CHANNELS_VERSION if isinstance(self.intensity, PerChannel) else VERSION

    @property
    def ct_channels(self) -> list[int]:
        """The channels whose values are HU."""
        if isinstance(self.intensity, PerChannel):
            return [i for i, each in enumerate(self.intensity.schemes) if isinstance(each, CTWindow)]
        return list(range(self.channels)) if isinstance(self.intensity, CTWindow) else []

    @property
    def shows_ct(self) -> bool:
        """Whether the first channel, which pictures show, is a CT."""
        return 0 in self.ct_channels

    def parameters(self) -> PreprocessParameters:
        """Everything that changes the prepared voxels, as plain JSON types."""
        spacing = list(self.spacing) if isinstance(self.spacing, tuple) else self.spacing
        return {
            "version": self.version,
            "orientation": "RAS",
            "spacing": spacing,
            "intensity": self.intensity.parameters(),
            "crop_above": self.crop_above,
            "crop_margin": self.crop_margin,
            "channels": self.channels,
        }

    @classmethod
    def from_parameters(cls, parameters: PreprocessParameters) -> Preprocess:
        """The definition that `parameters()` described.

        Raises:
            SettingError: the parameters are of an unknown version of this class.
        """
        if parameters["version"] not in (1, VERSION, CHANNELS_VERSION):
            raise SettingError(
                f"preprocessing version {parameters['version']} is not supported (this code has version {CHANNELS_VERSION})"
            )
        found = cls(
            spacing=parameters["spacing"],
            window=None,
            crop_above=parameters["crop_above"],
            crop_margin=parameters["crop_margin"],
            channels=parameters["channels"],
        )
        found.intensity = intensity_from(parameters["intensity"])
        found.version = parameters["version"]
        return found

    def image(self, path: ImagePath, series: str | int | None = None, allow: Sequence[str] = ()) -> Prepared:
        """Read an image (a file or a folder of DICOM slices) and bring it to the network's grid.

        Args:
            path: file or folder, or several on one grid that hold its channels.
            series: which series of a DICOM folder, see `read_image`.
            allow: irregularities of a DICOM series to accept, see `read_image`.

        Raises:
            ImageError: the file cannot be read with certainty; the message names it.
        """
        return self.volume(self.read(path, series, allow).image, str(files_of(path)[0]))

    def read(self, path: ImagePath, series: str | int | None = None, allow: Sequence[str] = ()) -> Original:
        """Read an image as it is, as `image` does before it brings it to the network's grid."""
        return read_original(path, channels=self.channels, series=series, allow=allow)

    def volume(self, volume: MetaTensor, name: str = "the image") -> Prepared:
        """The same for a volume (C, X, Y, Z) with its affine that is already in memory."""
        if volume.shape[0] != self.channels:
            raise ImageError(
                f"{name} has {volume.shape[0]} channel(s) but {self.channels} are expected; give all channels of the"
                " image, in one file or as several files"
            )
        affine = volume.affine.numpy() if isinstance(volume, MetaTensor) else np.eye(4)
        if self.ct_channels:
            warn_unless_hounsfield(volume.numpy()[self.ct_channels], name)
        clip = self.intensity.clip if self.version > 1 else torch.Tensor.float
        try:
            geometry = orient(volume.shape[1:], affine)
            values = to_oriented(volume.as_tensor(), geometry)
            if self.crop_above is not None:
                geometry = cropped(geometry, self._box_above(self.crop_above, values, geometry))
            if geometry.shear is None:
                values = clip(cut(values, geometry.crop))
            else:
                values = cut(straighten(clip(values), geometry), geometry.crop)
            geometry = resampled(geometry, self.spacing)
        except (GeometryError, ImageError) as error:
            raise ImageError(f"{name}: {error}") from error
        codes, record = self.intensity.encode(resample(values, geometry.grid))
        return Prepared(codes.numpy(), geometry, record)

    def label(
        self,
        path: PathLike,
        geometry: Geometry,
        named: Collection[int] | Mapping[int, str] | None = None,
        image: ImagePath | None = None,
    ) -> np.ndarray:
        """Read a label map and bring it to the grid of its image; uint8 or uint16 (X, Y, Z).

        Args:
            named: the label values that the dataset names; None allows every one. With their names (a mapping)
                where the label is a DICOM SEG or RTSTRUCT, whose segments have names, or a folder of masks.
            image: path of the image, with whose frame of reference that of a DICOM label is compared.

        Raises:
            ImageError: the label map does not lie on the grid of the image's file, or holds a value that the dataset
                does not name.
        """
        labels = read_label(
            Path(path),
            Header(geometry.shape, 1, np.asarray(geometry.affine)),
            named if isinstance(named, Mapping) else None,
            image=image if image is None else files_of(image)[0],
        )
        require_same_grid(os.fspath(path), labels, geometry)
        if named is not None:
            # On the grid of the file, since resampling could remove single wrong voxels.
            check_label_values(counts_of(labels.numpy()), {value: "" for value in named}, os.fspath(path))
        return self.label_volume(labels.as_tensor(), geometry)

    def label_volume(self, labels: torch.Tensor, geometry: Geometry) -> np.ndarray:
        """(1, *file shape) integer classes to the prepared grid (*geometry.grid)."""
        # torch supports few operations on uint16.
        labels = labels if labels.dtype == torch.uint8 else labels.to(torch.int32)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"label values {low} to {high} are not class ids; they must lie between 0 and 65535"
            )
        dtype = torch.uint8 if high <= 255 else torch.int32
        oriented = to_oriented(labels.to(dtype), geometry)[0]
        if geometry.shear is not None:
            oriented = straighten_labels(oriented, geometry)
        result = resample_labels(cut(oriented[None], geometry.crop)[0], geometry.grid).numpy()
        return result if dtype == torch.uint8 else result.astype(np.uint16)

    def normalise(self, codes: np.ndarray | torch.Tensor, intensity: IntensityRecord) -> torch.Tensor:
        """Codes of a patch or a volume to the float32 values that the network sees, same shape."""
        return self.intensity.decode(torch.as_tensor(codes), intensity)

    def padding_code(self, intensity: IntensityRecord) -> list[int]:
        """The code of what lies outside the image (air) in every channel."""
        codes = self.intensity.padding(intensity)
        return codes * self.channels if len(codes) == 1 else codes

    def padding_value(self, intensity: IntensityRecord) -> list[float]:
        """What the network sees outside the image in every channel."""
        codes = torch.tensor(self.padding_code(intensity), dtype=torch.int16)
        return [float(value) for value in self.normalise(codes, intensity)]

    def hounsfield(self, values: torch.Tensor) -> torch.Tensor:
        """What the network sees (C, *spatial) with the channels that are CT back in HU, for pictures of it."""
        values = values.float()
        schemes = (
            self.intensity.schemes
            if isinstance(self.intensity, PerChannel)
            else [self.intensity] * len(values)
        )
        return torch.stack(
            [
                scheme.hounsfield(channel) if isinstance(scheme, CTWindow) else channel
                for scheme, channel in zip(schemes, values, strict=True)
            ]
        )

    def restore(self, logits: torch.Tensor, geometry: Geometry) -> MetaTensor:
        """Logits (C, *geometry.grid) to classes (1, *file shape) on the grid of the file.

        Equal to softmax, linear interpolation to the file's grid and the largest class per voxel.

        Raises:
            GeometryError: the logits do not lie on the prepared grid.
            NonFiniteError: a voxel has no class, because its largest logit is NaN or infinite.
        """
        if tuple(logits.shape[1:]) != geometry.grid:
            raise GeometryError(
                f"the prediction has shape {tuple(logits.shape[1:])} but the prepared image has {geometry.grid}"
            )
        restorer = Restorer(geometry, len(logits), slab_axis(geometry))
        restorer.push_logits(logits)
        return MetaTensor(restorer.labels(), affine=torch.as_tensor(np.asarray(geometry.affine)))

    def _box_above(self, threshold: float, values: torch.Tensor, geometry: Geometry) -> Box:
        spacing = geometry.straight_spacing
        if self.ct_channels and len(self.ct_channels) < len(values):
            values = values[self.ct_channels]
        if geometry.shear is not None:
            # Values far below the threshold are clipped, so that padding pulls no interpolated voxel below it.
            floor = min(threshold, -1000.0) if self.version > 1 else -torch.inf
            values = straighten(values.float().clamp_min(floor), geometry)
        inside = (values > threshold).amax(0)
        if not bool(inside.any()):
            return geometry.crop
        box = []
        for axis in range(inside.ndim):
            hit = torch.nonzero(inside.amax(dim=[other for other in range(inside.ndim) if other != axis]))
            margin = round(self.crop_margin / spacing[axis])
            box.append((max(0, int(hit[0]) - margin), min(inside.shape[axis], int(hit[-1]) + 1 + margin)))
        return tuple(box)


def require_same_grid(name: str, labels: MetaTensor, geometry: Geometry) -> None:
    """Raise ImageError unless `labels` lies on the grid of the image's file.

    The tolerance is that of the check at the start of a training, `transforms.io.grids.grid_difference`.
    """
    require_grid(
        name,
        Header(tuple(labels.shape[1:]), labels.shape[0], labels.affine.numpy()),
        Header(geometry.shape, 1, np.asarray(geometry.affine)),
    )
