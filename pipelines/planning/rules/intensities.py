"""What a network sees of an image's values: how each channel is normalised, the window of a CT, and air cut away."""

from __future__ import annotations

import math

import numpy as np

from pipelines.planning.records import QUANTILES, CaseFingerprint, Fingerprint, PlannedValue
from pipelines.planning.rules.typical import count
from pipelines.planning.summary import pooled
from transforms.normalization import NORMALIZATIONS
from transforms.utils.sentences import few_of

WORDS = {word.lower(): word for word in NORMALIZATIONS}
"""Names of channels that say how to normalise, in lower case (nnU-Net v2, `channel_name_to_normalization_mapping`)."""

MAGNETIC = ("mr", "t1", "t2", "flair", "adc", "dwi")
"""Beginnings of names that only channels of a magnetic resonance tomograph have: nobody has to look for HU there."""

AIR = 0.01
"""Share of voxels below -900 HU from which on an image shows air, as every CT of a patient does."""

BROAD = 300.0
"""HU between the darkest and brightest percent: what a CT without air (a crop) spans at least with fat and bone."""

MOST_CASES = 0.9
"""Share of the cases that has to look like CT for all to be treated so; the others are named."""

PERCENTILES = (0.5, 99.5)
"""Of the values inside labels, between which a CT is kept (nnU-Net; Auto3DSeg's templates take the same)."""

MARGIN = 0.2
"""Of the width of these, added on both sides: a structure is also found by what it borders on."""

NARROWEST = 150.0
"""HU of a window at least; soft tissue and fat are as far apart."""

LIMITS = (-1024.0, 3071.0)
"""What 12 bits of a scanner can hold."""

AIR_THRESHOLD = -500.0
"""HU halfway between air and the patient."""

AIR_AROUND = 0.8
"""Share of an image that the patient fills, below which cutting the air away is worth it."""


def normalization(fingerprint: Fingerprint) -> tuple[PlannedValue, list[str]]:
    """How each channel is normalised, with notices.

    Returns:
        A word of `WORDS` per channel, by the channel's name or else by its values.
    """
    channels = len(fingerprint["cases"][0]["channels"])
    names = [name.strip() for name in fingerprint["channel_names"]] + [""] * channels
    words, notices = [], []
    alike: dict[str, list[str]] = {}
    for channel in range(channels):
        word, why, notice = _of_channel(fingerprint, channel, names[channel])
        words.append(word)
        alike.setdefault(why, []).append(f"{channel} ({names[channel]})" if names[channel] else f"{channel}")
        notices += [notice] if notice else []
    reasons = [f"{_together(those, channels)}{why}" for why, those in alike.items()]
    return PlannedValue(words, "; ".join(reasons)), notices


def _together(those: list[str], channels: int) -> str:
    """What a reason is about: channels of which only the first are named, as there may be a thousand."""
    if len(those) == channels > 1:
        return f"all {channels} channels: "
    if channels == 1 and those == ["0"]:
        return ""
    return f"{'channel' if len(those) == 1 else 'channels'} {few_of(those, 4, last=' and ')}: "


def _of_channel(fingerprint: Fingerprint, channel: int, name: str) -> tuple[str, str, str]:
    """The word, its reason, and a notice or nothing."""
    cases = fingerprint["cases"]
    word = WORDS.get(name.lower())
    strange = [c["case"] for c in cases if not c["channels"][channel]["hounsfield"]]
    few = len(strange) <= (1 - MOST_CASES) * len(cases)
    who = few_of(strange, 1)
    notice = ""
    if word == "CT" and not few:
        notice = (
            f"dataset.json calls channel {channel} CT, but {len(strange)} of {count(len(cases), 'case')} hold no Hounsfield "
            f"units ({who}): it is normalised by mean and deviation; convert the images to HU if they are CTs"
        )
        return (
            "zscore",
            f"called CT, but the values of {count(len(strange), 'case')} are no Hounsfield units",
            notice,
        )
    if word == "CT" or (not word and _looks_like_ct(cases, channel, name, few)):
        if strange:
            notice = f"{who}: no Hounsfield units, unlike the other cases; convert or leave out"
        if word:
            return "CT", "dataset.json calls it CT", notice
        return "CT", f"the values are Hounsfield units ({_air_words(cases, channel)})", notice
    if word:
        return word, f"dataset.json calls it {word}", ""
    return (
        "zscore",
        "the values have no unit, so that each image has its own mean and deviation taken off",
        "",
    )


def _looks_like_ct(cases: list[CaseFingerprint], channel: int, name: str, few: bool) -> bool:
    if not few or name.lower().startswith(MAGNETIC):
        return False
    records = [case["channels"][channel] for case in cases]
    air = np.median([record["air"] for record in records]) >= AIR
    both = [record[part] for part in ("inside", "outside") for record in records]
    values = pooled(both)["quantiles"]
    if not values:
        return False
    low, high = values[QUANTILES.index(1.0)], values[QUANTILES.index(99.0)]
    whole = all(record["whole_numbers"] for record in records)
    return bool(air or (whole and low < 0 and high - low >= BROAD))


def _air_words(cases: list[CaseFingerprint], channel: int) -> str:
    air = float(np.median([case["channels"][channel]["air"] for case in cases]))
    return f"{air:.0%} is air" if air >= AIR else "whole numbers, broad, below 0"


def window(fingerprint: Fingerprint, words: list[str]) -> PlannedValue:
    """The window of channels that are CT; None where there is none.

    Args:
        fingerprint: of the dataset.
        words: normalisation of each channel.

    Returns:
        [lower, upper] in HU.
    """
    channels = [index for index, word in enumerate(words) if word == "CT"]
    if not channels:
        return PlannedValue(None, "no channel is a CT, so that values have no unit that a window could be in")
    records = [case["channels"][c]["inside"] for case in fingerprint["cases"] for c in channels]
    inside = pooled(records)["quantiles"]
    if not inside:
        return PlannedValue(list(LIMITS), "no case has a labelled voxel: all values of a scanner are kept")
    low, high = (inside[QUANTILES.index(p)] for p in PERCENTILES)
    margin = max(MARGIN * (high - low), (NARROWEST - (high - low)) / 2)
    lower = max(LIMITS[0], math.floor(min(low - margin, LIMITS[1] - NARROWEST) / 10) * 10)
    upper = min(LIMITS[1], max(math.ceil((high + margin) / 10) * 10, lower + NARROWEST))
    return PlannedValue(
        [float(lower), float(upper)],
        f"{PERCENTILES[0]:g}% to {PERCENTILES[1]:g}% of the labelled voxels lie from {low:.0f} to {high:.0f} HU; with a "
        "margin on both sides for what borders on them",
    )


def crop_above(fingerprint: Fingerprint, words: list[str]) -> PlannedValue:
    """The value above which the patient is, where a CT has much air around; else None."""
    if "CT" not in words:
        return PlannedValue(None, "no CT, so that no value tells the patient from what is around")
    filled = [
        math.prod(min(1.0, b / (n * s)) for n, s, b in zip(c["shape"], c["spacing"], c["body"], strict=True))
        for c in fingerprint["cases"]
    ]
    share = float(np.median(filled))
    if share < AIR_AROUND:
        return PlannedValue(AIR_THRESHOLD, f"the patient's box is {share:.0%} of the image, the rest is air")
    return PlannedValue(
        None, f"the patient's box is {share:.0%} of the image: there is little air to cut away"
    )
