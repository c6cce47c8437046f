"""Checks the preprocessing in `model.json`, which may come from an untrusted source; see `model_card`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.inference.card_values import CardError, mapping, number, shown, whole
from transforms.intensity import (
    ChannelParameters,
    IntensityParameters,
    NoNormalization,
    RescaleTo01,
    RGBTo01,
    ZScore,
)
from transforms.preprocess import PreprocessParameters

CHANNELS = 1024
SPACING = 1e-3, 1e3
"""Limits of the voxel spacing in mm."""


def checked_preprocessing(content: Any) -> PreprocessParameters:
    """The checked parameters of `pipelines.Preprocess`, which itself checks the version.

    Raises:
        CardError: they are not valid or exceed a limit.
    """
    found = mapping(content, "preprocessing")
    known = ("version", "orientation", "spacing", "intensity", "crop_above", "crop_margin", "channels")
    for key in (*known, *found):
        if key not in found or key not in known:
            raise CardError(f"preprocessing {'lacks' if key in known else 'has an unknown'} {shown(key)}")
    if found["orientation"] != "RAS":
        raise CardError(f"preprocessing#orientation is {shown(found['orientation'])}, not 'RAS'")
    spacing = found["spacing"]
    if isinstance(spacing, list):
        if len(spacing) not in (2, 3):
            raise CardError(f"preprocessing#spacing is {shown(spacing)}, not two or three millimetres")
        spacing = [None if mm is None else number(mm, "preprocessing#spacing", *SPACING) for mm in spacing]
    elif spacing is not None:
        spacing = number(spacing, "preprocessing#spacing", *SPACING)
    above = found["crop_above"]
    channels = whole(found["channels"], "preprocessing#channels", 1, CHANNELS)
    return {
        "version": found["version"],
        "orientation": "RAS",
        "spacing": spacing,
        "intensity": _intensity(found["intensity"], channels),
        "crop_above": None if above is None else number(above, "preprocessing#crop_above", -1e9, 1e9),
        "crop_margin": number(found["crop_margin"], "preprocessing#crop_margin", 0, 1e4),
        "channels": channels,
    }


def _intensity(content: Any, channels: int) -> IntensityParameters:
    where = "preprocessing#intensity"
    found = mapping(content, where)
    if found.get("kind") != "per_channel":
        one = _of_channel(found, where)
        if one["kind"] == "ct_window" or one["kind"] == "z_score":
            return one
        raise CardError(f"{where} is {shown(found)}, neither a window of HU nor z-scores")
    each = found.get("channels")
    if set(found) != {"kind", "channels"} or not isinstance(each, list) or len(each) != channels:
        raise CardError(
            f"{where} is {shown(found)}, which does not say what is done to each of {channels} channels"
        )
    return {
        "kind": "per_channel",
        "channels": [_of_channel(mapping(one, f"{where}#channels"), f"{where}#channels") for one in each],
    }


def _of_channel(found: Mapping[str, Any], where: str) -> ChannelParameters:
    for scheme in (ZScore(), RescaleTo01(), RGBTo01(), NoNormalization()):
        if found == scheme.parameters():
            return scheme.parameters()
    if set(found) != {"kind", "lower", "upper"} or found["kind"] != "ct_window":
        raise CardError(f"{where} is {shown(found)}, neither a window of HU nor another normalization")
    lower, upper = (number(found[key], f"{where}#{key}", -32768, 32767) for key in ("lower", "upper"))
    if not lower < upper:
        raise CardError(f"{where} is the window [{lower}, {upper}], whose limits do not increase")
    return {"kind": "ct_window", "lower": lower, "upper": upper}
