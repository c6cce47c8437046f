"""The words for what is done to a channel's intensities; `transforms.intensity` does it.

Apart from there because datasets are read and checked without torch.
"""

from __future__ import annotations

NORMALIZATIONS = ("CT", "zscore", "rescale_to_0_1", "rgb_to_0_1", "noNorm")
"""The words of nnU-Net's dataset.json for what is done to a channel; any other word, such as T1, means zscore there."""


def normalization_word(name: str) -> str:
    """nnU-Net's word for a channel of this name: one of `NORMALIZATIONS`, upper and lower case being equal."""
    known = {word.casefold(): word for word in NORMALIZATIONS}
    return known.get(name.casefold(), "zscore")
