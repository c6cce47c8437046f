"""Checks of a cohort as a whole: whether it may be CT, and which foreground is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipelines.data.cases import Dataset
from transforms.normalization import normalization_word
from transforms.utils.sentences import few_of

_SHOWN = 10


def stated_normalization(dataset: Dataset) -> list[str] | str | None:
    """What is to be done to each channel by its name in dataset.json, as nnU-Net understands names.

    Returns:
        A word of `transforms.normalization.NORMALIZATIONS` for each channel: the one that the name is, "CT" where the name
        says CT among other words, else "zscore". One word for all channels where "modality" is a plain text. None
        where dataset.json names no channels: the images have to be looked at.
    """
    names = dataset.channel_names
    words = [
        "CT" if re.search(r"\bct\b", name, re.IGNORECASE) else normalization_word(name) for name in names
    ]
    return words[0] if words and dataset.channels is None else words or None


def missing_foreground(present: Mapping[str, Iterable[int]], labels: Mapping[int, str]) -> list[str]:
    """Which training cases have no foreground, and which classes no training case has.

    Args:
        present: case id to the foreground classes in its label map.
        labels: class id to name, background included.

    Returns:
        One sentence per finding; empty if nothing is missing.
    """
    found = []
    empty = [case for case, classes in present.items() if not set(classes)]
    if empty:
        found.append(
            f"{len(empty)} of {len(present)} training cases have no foreground: {few_of(empty, _SHOWN)}; the network learns"
            " only background from them. Check whether their label maps are correct."
        )
    seen = {value for classes in present.values() for value in classes}
    unseen = [name for value, name in sorted(labels.items()) if value != 0 and value not in seen]
    if unseen and present:
        found.append(
            f"no training case has the class{'es' if len(unseen) > 1 else ''} {few_of(unseen, _SHOWN)}, so the network"
            f" cannot learn {'them' if len(unseen) > 1 else 'it'}. Remove the class from the labels, or add cases that"
            " have it."
        )
    return found
