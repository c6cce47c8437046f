"""Random variations of a training patch: what may differ between two scans that deserve the same label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    Transform,
)

__all__ = ["PatchAugmentation"]


class PatchAugmentation(Randomizable, Transform):
    r"""Flips, rotation, scale and intensity changes of an image patch and its label map.

    The defaults are near those of nnU-Net [1]_, for inputs in about [-1, 1]. In this order, each with its own
    probability:

    ================  ===========  ==========================================================================
    change            probability  bounds
    ================  ===========  ==========================================================================
    rotation          0.2          uniform in :math:`\pm` `rotation` degrees (30) about every axis
    scale             0.2          uniform in `scale` (0.7, 1.4), one factor for all axes; above 1 enlarges
    noise             0.1          Gaussian, deviation uniform in (0, `noise`) (0.1)
    blur              0.2          Gaussian, deviation uniform in `blur` (0.5, 1) voxels, each axis its own
    brightness        0.15         times a factor uniform in 1 :math:`\pm` `brightness` (0.25)
    contrast          0.15         deviation from the mean times 1 :math:`\pm` `contrast` (0.25), range kept
    low resolution    0.25         down (averaging) by a factor uniform in `low_resolution` (0.5, 1), and up,
                                   along a random choice of the axes: thick slices in any direction
    gamma             0.3          exponent uniform in `gamma` (0.7, 1.5) on the patch's range, mean and
                                   deviation kept
    gamma, inverted   0.1          the same on the negative
    flip              0.5          along each of `flip_axes`
    ================  ===========  ==========================================================================

    Rotation and scale are one resampling, linear for the image and nearest for the label, so that labels are
    never invented. `source_size` tells how many voxels around the patch it needs so that no corner of the
    result lies outside of what was read; `PatchDataset` asks and reads them. Given a patch of just its final
    size, what lies outside repeats the border.

    Parameters
    ----------
    patch_size : sequence of int
        Size of the result, (X, Y, Z) or (X, Y).
    flip_axes : sequence of int, optional
        Spatial axes that may be flipped, default all. Where labels tell left from right, leave out 0, the
        left-right axis of volumes in RAS: ``flip_axes=(1, 2)``.
    rotation : float or sequence of float
        Largest angle in degrees; three numbers limit the rotation about x, y and z each.
    scale, noise, blur, brightness, contrast, low_resolution, gamma
        Bounds, see above. None switches a change off.
    spacing : float or sequence of float, optional
        Size of a voxel in any unit, of which a 2D patch takes the first two. Given, rotations are rigid in
        space; without, in the voxel grid, which shears anatomy when voxels are far from cubic. None for a
        single axis stands for the smallest of the others.
    probability : mapping of str to float, optional
        Probabilities that differ from the table's: keys "rotation", "scale", "noise", "blur", "brightness",
        "contrast", "low_resolution", "gamma", "gamma_inverted", "flip".
    image_key, label_key : str
        Keys of the image, float (C, *size), and of the label, integer (1, *size), which may be absent.

    References
    ----------
    .. [1] F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
       segmentation", Nature Methods 18, 2021, supplementary note 4.
    """

    PROBABILITY = {  # noqa: RUF012
        "rotation": 0.2,
        "scale": 0.2,
        "noise": 0.1,
        "blur": 0.2,
        "brightness": 0.15,
        "contrast": 0.15,
        "low_resolution": 0.25,
        "gamma": 0.3,
        "gamma_inverted": 0.1,
        "flip": 0.5,
    }

    def __init__(
        self,
        patch_size: Sequence[int],
        flip_axes: Sequence[int] | None = None,
        rotation: float | Sequence[float] | None = 30.0,
        scale: Sequence[float] | None = (0.7, 1.4),
        noise: float | None = 0.1,
        blur: Sequence[float] | None = (0.5, 1.0),
        brightness: float | None = 0.25,
        contrast: float | None = 0.25,
        low_resolution: Sequence[float] | None = (0.5, 1.0),
        gamma: Sequence[float] | None = (0.7, 1.5),
        spacing: Sequence[float | None] | float | None = None,
        probability: Mapping[str, float] | None = None,
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        self.patch_size = tuple(int(p) for p in patch_size)
        dims = len(self.patch_size)
        if dims not in (2, 3):
            raise ValueError(f"patch_size must have 2 or 3 numbers, got {patch_size}.")
        self.flip_axes = tuple(range(dims)) if flip_axes is None else tuple(int(a) for a in flip_axes)
        if not set(self.flip_axes) <= set(range(dims)):
            raise ValueError(f"flip_axes must be among the spatial axes 0..{dims - 1}, got {flip_axes}.")
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be two ascending positive factors, got {scale}.")
        unknown = set(probability or {}) - set(self.PROBABILITY)
        if unknown:
            raise ValueError(f"unknown probability {sorted(unknown)}; known: {sorted(self.PROBABILITY)}.")
        self.probability = {**self.PROBABILITY, **(probability or {})}
        angles = 3 if dims == 3 else 1
        degrees = rotation if isinstance(rotation, Sequence) else (rotation or 0.0,) * angles
        if len(degrees) != angles:
            raise ValueError(f"rotation must be one angle or {angles}, got {rotation}.")
        self.rotation = np.deg2rad(np.asarray(degrees, float))
        self.scale = None if scale is None else (float(scale[0]), float(scale[1]))
        self.spacing = _voxel(spacing, dims)
        self.image_key = image_key
        self.label_key = label_key

        prob = self.probability
        changes: list[Any] = []
        if noise is not None:
            changes.append(RandGaussianNoise(prob["noise"], std=noise))
        if blur is not None:
            low, high = blur
            changes.append(RandGaussianSmooth((low, high), (low, high), (low, high), prob["blur"]))
        if brightness is not None:
            changes.append(RandScaleIntensity(brightness, prob["brightness"]))
        if contrast is not None:
            changes.append(
                RandScaleIntensityFixedMean(prob["contrast"], contrast, fixed_mean=True, preserve_range=True)
            )
        if low_resolution is not None:
            changes.append(_RandLowResolution(prob["low_resolution"], tuple(low_resolution)))
        if gamma is not None:
            changes.append(
                RandAdjustContrast(prob["gamma_inverted"], gamma, invert_image=True, retain_stats=True)
            )
            changes.append(RandAdjustContrast(prob["gamma"], gamma, retain_stats=True))
        self.intensity = Compose(changes)
        self._matrix: np.ndarray | None = None
        self._drawn = False

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> PatchAugmentation:
        """Set the state of every random choice, and forget an affine that was drawn but not used."""
        super().set_random_state(seed, state)
        for change in self.intensity.transforms:
            change.set_random_state(state=self.R)  # one generator for all: seeding costs 0.1 ms each
        self._drawn = False
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw the affine and the flips of the next patch."""
        self._matrix = self._draw_matrix()
        self._flips = [
            1 + a for a in range(len(self.patch_size)) if self.R.random() < self.probability["flip"]
        ]
        self._flips = [a for a in self._flips if a - 1 in self.flip_axes]
        self._drawn = True

    def source_size(self) -> tuple[int, ...]:
        """Draw the next patch's affine; the voxels per axis to read around its centre for it.

        It exceeds `patch_size` by an even number, so that both have one centre.
        """
        self.randomize()
        if self._matrix is None:
            return self.patch_size
        # half a voxel of linear interpolation on either side
        reach = np.abs(self._matrix) @ (np.asarray(self.patch_size) - 1) + 1
        extra = np.maximum(np.ceil((reach - self.patch_size) / 2), 0).astype(int)
        return tuple(int(p + 2 * e) for p, e in zip(self.patch_size, extra, strict=True))

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The varied patch: the same keys, image float32 (C, *patch_size), label (1, *patch_size)."""
        if not self._drawn:
            self.randomize()
        self._drawn = False
        item = dict(data)
        image = item[self.image_key]
        label = item.get(self.label_key)
        if self._matrix is not None:
            grid = self._grid(image.shape[1:])
            image = _sample(image, grid, "bilinear")
            label = None if label is None else _sample(label, grid, "nearest")
        elif tuple(image.shape[1:]) != self.patch_size:
            raise ValueError(f"expected a patch of {self.patch_size}, got {tuple(image.shape[1:])}.")
        # MONAI's array transforms turn tensors into MetaTensors, whose every operation costs dispatch
        image = torch.as_tensor(self.intensity(image))
        image = image.as_tensor() if hasattr(image, "as_tensor") else image
        if self._flips:
            image = torch.flip(image, self._flips)
            label = None if label is None else torch.flip(label, self._flips)
        item[self.image_key] = image.contiguous()
        if label is not None:
            item[self.label_key] = label.contiguous()
        return item

    def _draw_matrix(self) -> np.ndarray | None:
        """Offsets from the centre in the result to offsets in the source, in voxels; None for the identity."""
        dims = len(self.patch_size)
        rotate, zoom = self.R.random(2) < (self.probability["rotation"], self.probability["scale"])
        angles = self.R.uniform(-self.rotation, self.rotation)
        factor = self.R.uniform(*self.scale) if self.scale is not None else 1.0
        if not (rotate and self.rotation.any()) and not (zoom and self.scale is not None):
            return None
        matrix = np.eye(dims)
        if rotate:
            # the angle about z turns (x, y); in 2D it is the only one
            planes = ((1, 2), (0, 2), (0, 1)) if dims == 3 else ((0, 1),)
            for (a, b), angle in zip(planes, angles, strict=True):
                turn = np.eye(dims)
                turn[a, a] = turn[b, b] = math.cos(angle)
                turn[a, b] = -math.sin(angle)
                turn[b, a] = math.sin(angle)
                matrix = matrix @ turn
        if zoom:
            matrix = matrix / factor
        return matrix * self.spacing[None, :] / self.spacing[:, None]

    def _grid(self, source: Sequence[int]) -> torch.Tensor:
        """Sampling positions for `grid_sample`, whose axes run backwards from -1 to 1 between outer faces."""
        assert self._matrix is not None
        scaled = self._matrix * np.asarray(self.patch_size)[None, :] / np.asarray(source)[:, None]
        theta = np.concatenate([scaled[::-1, ::-1], np.zeros((len(source), 1))], 1)
        return functional.affine_grid(
            torch.from_numpy(theta.astype(np.float32))[None], [1, 1, *self.patch_size], align_corners=False
        )


def _voxel(spacing: Sequence[float | None] | float | None, dims: int) -> np.ndarray:
    given = [spacing] * dims if spacing is None or isinstance(spacing, int | float) else list(spacing)
    known = [s for s in given if s is not None]
    if len(given) < dims or any(s <= 0 for s in known):
        raise ValueError(f"spacing must be one positive number, or {dims} positive numbers, got {spacing}.")
    smallest = min(known, default=1.0)
    return np.array([smallest if s is None else s for s in given[:dims]], float)


class _RandLowResolution(RandomizableTransform):
    """Coarser voxels along a random choice of the axes.

    Scans differ in the thickness of their slices more than in anything else, which a factor common to all axes
    (MONAI's RandSimulateLowResolution) does not cover. A block is averaged, as a scanner does; taking its first
    voxel, MONAI's default, moves the image against its label by 0.5 to 1.2 voxels.
    """

    def __init__(self, prob: float, zoom_range: Sequence[float]) -> None:
        super().__init__(prob)
        self.zoom_range = zoom_range

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The coarser image of the same shape (C, *size)."""
        self.randomize(None)
        low, high = self.zoom_range
        axes = self.R.randint(1, 2 ** (image.ndim - 1))  # the bits of a number: each choice but none alike
        zoom = self.R.uniform(low, high)
        if not self._do_transform:
            return image
        size = image.shape[1:]
        coarse = [max(1, round(n * zoom)) if axes >> i & 1 else n for i, n in enumerate(size)]
        mode = "trilinear" if len(size) == 3 else "bilinear"
        down = functional.interpolate(image[None].float(), size=coarse, mode="area")
        return functional.interpolate(down, size=size, mode=mode, align_corners=False)[0].to(image.dtype)


def _sample(volume: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    result = functional.grid_sample(
        volume.float()[None], grid, mode=mode, padding_mode="border", align_corners=False
    )
    return result[0].to(volume.dtype)
