"""Dictionary transforms for other programs.

MONAI Label, MONAI Deploy and scripts written for the Model Zoo pass a dictionary through these lists, with the network
between them: the image from its file to the network's grid, the logits from there to the label map on the grid of the
file. What a voxel becomes is decided by `Preprocess` alone, so that they get the labels of every other prediction.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from transforms.errors import ImageError
from transforms.io.readers import files_of
from transforms.preprocess import Preprocess
from transforms.spatial.geometry import Geometry

__all__ = ["LoadOriginald", "RestoreLabelsd", "ToNetworkGridd"]

GEOMETRY, PADDING = "geometry", "padding"
"""Meta data of an image on the network's grid: how it lies on the grid of its file, and the values around it."""
_FILE, _NO_CHANNEL = "filename_or_obj", "no_channel"


class _OfImages(MapTransform):
    """Does the same to the image of each key."""

    def __init__(self, keys: KeysCollection, preprocess: Preprocess) -> None:
        super().__init__(keys)
        self.preprocess = preprocess

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with the images that this makes."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self._image(found[key], str(key))
        return found

    def _image(self, value: Any, key: str) -> MetaTensor:
        raise NotImplementedError


class LoadOriginald(_OfImages):
    """The image at a path as (C, X, Y, Z) or (C, X, Y), read as every prediction reads it.

    An image that the program has read already stays as it is; only its channels become the first axis, where its
    meta data (`original_channel_dim`) say that they are another, or that it has none.

    The meta data are those of MONAI's `LoadImaged`: `filename_or_obj`, `spatial_shape`, `original_affine`, `affine`.

    Args:
        keys: of the paths, see `transforms.io.readers.read_image`.
        preprocess: what the network's images have to be.

    Raises:
        ImageError: the file cannot be read with certainty; the message names it.

    Examples:
        >>> given = {"image": MetaTensor(torch.zeros(5, 4, 3), meta={"original_channel_dim": "no_channel"})}
        >>> LoadOriginald("image", Preprocess())(given)["image"].shape
        torch.Size([1, 5, 4, 3])
    """

    def _image(self, value: Any, key: str) -> MetaTensor:
        if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
            image = _channels_first(_with_meta(value), key, self.preprocess.channels)
        else:
            image = self.preprocess.read(value).image
            image.meta[_FILE] = os.fspath(files_of(value)[0])
        image.meta["spatial_shape"] = list(image.shape[1:])
        image.meta["original_affine"] = image.affine.clone()
        return image


class ToNetworkGridd(_OfImages):
    """An image (C, X, Y, Z) or (C, X, Y) with its affine as the network sees it, float32 (C, *grid).

    Its meta data keep what leads back, for `RestoreLabelsd`, and the values around the image, for `SlidingWindow`.

    Args:
        keys: of the images.
        preprocess: the preprocessing of the network's training.

    Raises:
        ImageError: the image has another number of channels, or lies on a grid that cannot be used.

    Examples:
        >>> preprocess = Preprocess(spacing=2.0, window=(-1000, 1000))
        >>> found = ToNetworkGridd("image", preprocess)({"image": MetaTensor(torch.zeros(1, 8, 8, 8))})
        >>> found["image"].shape, found["image"].meta["padding"]
        (torch.Size([1, 4, 4, 4]), [-1.0])
    """

    def _image(self, value: MetaTensor, key: str) -> MetaTensor:
        prepared = self.preprocess.volume(
            cast(MetaTensor, value.cpu()), str(value.meta.get(_FILE, f"the image '{key}'"))
        )
        geometry = prepared.geometry
        image = MetaTensor(
            self.preprocess.normalise(prepared.codes, prepared.intensity),
            affine=torch.as_tensor(geometry.prepared_affine),
            meta=_without_affine(value),
        )
        image.meta[GEOMETRY] = geometry.to_dict()
        image.meta[PADDING] = self.preprocess.padding_value(prepared.intensity)
        return image


class RestoreLabelsd(MapTransform):
    """Logits (C, *grid) as classes (1, *file shape) on the grid of the image's file.

    Args:
        keys: of the logits.
        preprocess: that of `ToNetworkGridd`.
        source: key of the image that the logits are of, as `ToNetworkGridd` left it.

    Raises:
        ImageError: the image has not been through `ToNetworkGridd`.
        GeometryError: the logits do not lie on the network's grid.
        NonFiniteError: a voxel has no class, because its largest logit is NaN or infinite.

    Examples:
        >>> preprocess = Preprocess(spacing=2.0, window=(-1000, 1000))
        >>> data = ToNetworkGridd("image", preprocess)({"image": MetaTensor(torch.zeros(1, 8, 8, 8))})
        >>> data["pred"] = torch.zeros(3, 4, 4, 4)
        >>> RestoreLabelsd("pred", preprocess)(data)["pred"].shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, keys: KeysCollection, preprocess: Preprocess, source: str = "image") -> None:
        super().__init__(keys)
        self.preprocess = preprocess
        self.source = source

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with label maps instead of logits."""
        found = dict(data)
        meta = getattr(found.get(self.source), "meta", {})
        if GEOMETRY not in meta:
            raise ImageError(
                f"'{self.source}' has lost the way back to its file; run the bundle's preprocessing on it before the network"
            )
        for key in self.key_iterator(found):
            logits = torch.as_tensor(found[key]).float().cpu()
            logits = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
            labels = self.preprocess.restore(logits, Geometry.from_dict(meta[GEOMETRY]))
            labels.meta |= {
                name: meta[name] for name in (_FILE, "spatial_shape", "original_affine") if name in meta
            }
            found[key] = labels
        return found


def _with_meta(value: Any) -> MetaTensor:
    return value if isinstance(value, MetaTensor) else MetaTensor(torch.as_tensor(value))


def _channels_first(image: MetaTensor, key: str, channels: int) -> MetaTensor:
    """The image with its channels as the first axis, as its meta data tell where they are."""
    at = image.meta.get("original_channel_dim", 0)
    if isinstance(at, str) or at != at:  # MONAI writes NaN for "no_channel"
        return cast(MetaTensor, image[None])
    if at in (0, -image.ndim):
        return image
    if int(image.shape[int(at)]) != channels:
        raise ImageError(
            f"the image '{key}' of shape {tuple(image.shape)} has {image.shape[int(at)]} channels in its axis {at}, not {channels}"
        )
    return MetaTensor(image.as_tensor().movedim(int(at), 0), affine=image.affine, meta=_without_affine(image))


def _without_affine(image: MetaTensor) -> dict[str, Any]:
    return {name: value for name, value in image.meta.items() if name != "affine"}
