"""Random augmentation of a training patch by differences that occur between scans with the same label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import Randomizable, Transform

from transforms.augmentation.variation import Variation
from transforms.errors import SettingError

__all__ = ["PatchAugmentation"]


class PatchAugmentation(Randomizable, Transform):
    """Flips, rotation, scale and intensity changes of an image patch and its label map.

    The changes are those of nnU-Net [1]_, for inputs in about [-1, 1]. How often they happen depends on `strength`:
    "strong" is tuned on a few lung CTs that differ in the thickness of their slices, with more scale and coarser slices
    than in nnU-Net; "moderate" rotates and scales as often as nnU-Net, so that most patches keep the voxels of their
    scan. In this order, each with its own probability:

    ================  ======  ========  ======================================================================
    change            strong  moderate  bounds
    ================  ======  ========  ======================================================================
    rotation          0.5     0.2       uniform in ± `rotation` degrees (15) about every axis
    scale             0.7     0.2       uniform in `scale` (0.7, 1.4), one factor for all axes; above 1 enlarges
    noise             0.1     0.1       Gaussian, deviation uniform in (0, `noise`) (0.1)
    blur              0.1     0.1       Gaussian, deviation uniform in `blur` (0.5, 1) voxels, each axis its own
    brightness        0.1     0.1       times a factor uniform in 1 ± `brightness` (0.25)
    contrast          0.1     0.1       deviation from the mean times 1 ± `contrast` (0.25), range kept
    low resolution    0.25    0.25      down (averaging) by a factor uniform in `low_resolution` (0.35, 1), and
                                        up, along a random choice of the axes: thick slices in any direction
    gamma             0.1     0.1       exponent uniform in `gamma` (0.7, 1.5) on the patch's range, mean and
                                        deviation kept
    gamma, inverted   0       0         the same on the negative
    flip              0.5     0.5       along each of `flip_axes`
    ================  ======  ========  ======================================================================

    Rotation and scale are one resampling, linear for the image and nearest for the label, so that labels are
    never invented. `source_size` tells how many voxels around the patch it needs so that no corner of the
    result lies outside of what was read; `PatchDataset` reads that many. If the patch has only its final
    size, the border is repeated outside.

    Drawing and applying are separate: `draw` gives a `Variation`, a few numbers that can be applied at once
    (calling the augmentation does so), in another process or on a GPU.

    Args:
        patch_size: size of the result, (X, Y, Z) or (X, Y).
        flip_axes: spatial axes that may be flipped, default all. Where labels tell left from right, leave out
            0, the left-right axis of volumes in RAS: ``flip_axes=(1, 2)``.
        rotation: largest angle in degrees; three numbers limit the rotation about x, y and z each.
        scale, noise, blur, brightness, contrast, low_resolution, gamma: bounds, see above. None switches a
            change off.
        spacing: size of a voxel in any unit, of which a 2D patch takes the first two. Given, rotations are
            rigid in space; without, in the voxel grid, which shears anatomy when voxels are far from cubic.
            None for a single axis stands for the smallest of the others.
        strength: column of the table, "strong" or "moderate".
        probability: probabilities that differ from the table's: keys "rotation", "scale", "noise", "blur",
            "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted", "flip".
        image_key, label_key: keys of the image, float (C, *size), and of the label, integer (1, *size), which
            may be absent.

    .. [1] F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
       segmentation", Nature Methods 18, 2021, supplementary note 4.

    Examples:
        >>> import torch
        >>> augment = PatchAugmentation(patch_size=(16, 16, 16), flip_axes=(1, 2)).set_random_state(seed=0)
        >>> size = augment.source_size()  # with the margin that rotations need
        >>> item = augment({"image": torch.zeros(1, *size), "label": torch.zeros(1, *size, dtype=torch.uint8)})
        >>> item["image"].shape, item["label"].dtype
        (torch.Size([1, 16, 16, 16]), torch.uint8)
    """

    PROBABILITY = {  # noqa: RUF012
        "rotation": 0.5,
        "scale": 0.7,
        "noise": 0.1,
        "blur": 0.1,
        "brightness": 0.1,
        "contrast": 0.1,
        "low_resolution": 0.25,
        "gamma": 0.1,
        "gamma_inverted": 0.0,
        "flip": 0.5,
    }
    """Of "strong"."""
    STRENGTHS = {  # noqa: RUF012
        "strong": PROBABILITY,
        "moderate": PROBABILITY | {"rotation": 0.2, "scale": 0.2},
    }

    def __init__(
        self,
        patch_size: Sequence[int],
        flip_axes: Sequence[int] | None = None,
        rotation: float | Sequence[float] | None = 15,
        scale: Sequence[float] | None = (0.7, 1.4),
        noise: float | None = 0.1,
        blur: Sequence[float] | None = (0.5, 1.0),
        brightness: float | None = 0.25,
        contrast: float | None = 0.25,
        low_resolution: Sequence[float] | None = (0.35, 1.0),
        gamma: Sequence[float] | None = (0.7, 1.5),
        spacing: Sequence[float | None] | float | None = None,
        probability: Mapping[str, float] | None = None,
        image_key: str = "image",
        label_key: str = "label",
        strength: str = "strong",
    ) -> None:
        self.patch_size = tuple(int(p) for p in patch_size)
        dims = len(self.patch_size)
        if dims not in (2, 3):
            raise SettingError(f"patch_size must have 2 or 3 numbers, got {patch_size}.")
        self.flip_axes = tuple(range(dims)) if flip_axes is None else tuple(int(a) for a in flip_axes)
        if not set(self.flip_axes) <= set(range(dims)):
            raise SettingError(f"flip_axes must be among the spatial axes 0..{dims - 1}, got {flip_axes}.")
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise SettingError(f"scale must be two ascending positive factors, got {scale}.")
        unknown = set(probability or {}) - set(self.PROBABILITY)
        if unknown:
            raise SettingError(f"unknown probability {sorted(unknown)}; known: {sorted(self.PROBABILITY)}.")
        if strength not in self.STRENGTHS:
            raise SettingError(
                f"the strength of an augmentation is one of {', '.join(self.STRENGTHS)}, got {strength!r}."
            )
        self.probability = {**self.STRENGTHS[strength], **(probability or {})}
        angles = 3 if dims == 3 else 1
        degrees = rotation if isinstance(rotation, Sequence) else (rotation or 0.0,) * angles
        if len(degrees) != angles:
            raise SettingError(f"rotation must be one angle or {angles}, got {rotation}.")
        self.rotation = np.deg2rad(np.asarray(degrees, float))
        self.scale = _pair(scale)
        self.spacing = _voxel(spacing, dims)
        self.image_key = image_key
        self.label_key = label_key

        self.noise, self.brightness, self.contrast = noise, brightness, contrast
        self.blur, self.low_resolution, self.gamma = _pair(blur), _pair(low_resolution), _pair(gamma)
        self._matrix: np.ndarray | None = None
        self._flips: tuple[int, ...] = ()
        self._drawn = False

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> PatchAugmentation:
        """Set the state of every random choice, and discard an affine that was drawn but not used."""
        super().set_random_state(seed, state)
        self._drawn = False
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw the affine and the flips of the next patch."""
        self._matrix = self._draw_matrix()
        flips = [a for a in range(len(self.patch_size)) if self.R.random() < self.probability["flip"]]
        self._flips = tuple(a for a in flips if a in self.flip_axes)
        self._drawn = True

    def source_size(self) -> tuple[int, ...]:
        """Draw the next patch's affine; return the number of voxels per axis to read around its centre.

        It exceeds `patch_size` by an even number, so that both have the same centre.
        """
        self.randomize()
        if self._matrix is None:
            return self.patch_size
        # half a voxel of linear interpolation on either side
        reach = np.abs(self._matrix) @ (np.asarray(self.patch_size) - 1) + 1
        extra = np.maximum(np.ceil((reach - self.patch_size) / 2), 0).astype(int)
        return tuple(int(p + 2 * e) for p, e in zip(self.patch_size, extra, strict=True))

    def draw(self) -> Variation:
        """Draw the variation of the next patch; its affine is that of `source_size`, if that was called before."""
        if not self._drawn:
            self.randomize()
        self._drawn = False
        return Variation(self.patch_size, self._matrix, tuple(self._draw_changes()), self._flips)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The varied patch: the same keys, image float32 (C, *patch_size), label (1, *patch_size)."""
        item = dict(data)
        image, label = self.draw().apply(item[self.image_key], item.get(self.label_key))
        item[self.image_key] = image
        if label is not None:
            item[self.label_key] = label
        return item

    def _draw_changes(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Name and amounts of each intensity change; the order must stay, so that seeds give the same results."""
        if self.noise is not None and self._happens("noise"):
            yield "noise", (float(self.R.uniform(0, self.noise)), int(self.R.randint(2**32, dtype=np.uint64)))
        if self.blur is not None and self._happens("blur"):
            sigmas = tuple(float(self.R.uniform(*self.blur)) for _ in range(3))
            yield "blur", (sigmas[: len(self.patch_size)],)
        if self.brightness is not None and self._happens("brightness"):
            yield "brightness", (1 + float(self.R.uniform(-self.brightness, self.brightness)),)
        if self.contrast is not None and self._happens("contrast"):
            yield "contrast", (1 + float(self.R.uniform(-self.contrast, self.contrast)),)
        if self.low_resolution is not None:
            happens, coarse = self._happens("low_resolution"), self._draw_low_resolution()
            if happens:
                yield "low_resolution", (coarse,)
        for name, inverted in (("gamma_inverted", True), ("gamma", False)):
            if self.gamma is not None and self._happens(name):
                yield "gamma", (float(self.R.uniform(*self.gamma)), inverted)

    def _happens(self, change: str) -> bool:
        return bool(self.R.random() < self.probability[change])

    def _draw_low_resolution(self) -> tuple[int, ...]:
        """Voxels per axis, fewer along a random choice of the axes.

        The largest difference between scans is the slice thickness, which a factor common to all axes (MONAI's
        RandSimulateLowResolution) does not cover.
        """
        assert self.low_resolution is not None
        axes = self.R.randint(
            1, 2 ** len(self.patch_size)
        )  # the bits of a random number: every non-empty choice is equally likely
        zoom = self.R.uniform(*self.low_resolution)
        return tuple(max(1, round(n * zoom)) if axes >> i & 1 else n for i, n in enumerate(self.patch_size))

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


def _pair(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))


def _voxel(spacing: Sequence[float | None] | float | None, dims: int) -> np.ndarray:
    given = [spacing] * dims if spacing is None or isinstance(spacing, int | float) else list(spacing)
    known = [s for s in given if s is not None]
    if len(given) < dims or any(s <= 0 for s in known):
        raise SettingError(f"spacing must be one positive number, or {dims} positive numbers, got {spacing}.")
    smallest = min(known, default=1.0)
    return np.array([smallest if s is None else s for s in given[:dims]], float)
