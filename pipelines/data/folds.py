"""The split into training and validation cases, and the folds of a cross-validation, both by patient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipelines.data.cases import Case, Dataset, DatasetError
from pipelines.data.dataset_json import Item
from transforms.errors import SettingError


def _shuffled_patients(cases: Iterable[Case], seed: int) -> list[list[Case]]:
    """Return the cases of each patient; the order of the patients depends only on the seed and their names."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)

    def key(group: str) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).hexdigest(), group

    return [groups[group] for group in sorted(groups, key=key)]


def split_cases(
    where: Path,
    dataset: Dataset,
    items: list[Item],
    fold: int | None,
    num_folds: int,
    seed: int,
    fraction: float,
) -> Dataset:
    labelled = [item for item in items if item.split != "test"]
    numbered = [item for item in labelled if item.fold is not None]
    if not 0 <= fraction < 1:
        raise SettingError(f"validation_fraction is {fraction}; it must be at least 0 and less than 1.")
    if fold is None and (dataset.validation or (fraction == 0 and not numbered)):
        return dataset
    if numbered:
        return _stated_fold(where, dataset, labelled, fold or 0)
    if fold is not None:
        if num_folds < 2 or not 0 <= fold < num_folds:
            raise SettingError(
                f"fold is {fold} of {num_folds}; it must be 0 to num_folds - 1, with 2 folds or more."
            )
        groups = _shuffled_patients(dataset.training + dataset.validation, seed)
        if len(groups) < num_folds:
            raise DatasetError(
                where,
                [
                    f"{num_folds} folds need at least {num_folds} patients, but there are {len(groups)}; use fewer folds"
                    " (num_folds)."
                ],
            )
        folds: list[list[Case]] = [[] for _ in range(num_folds)]
        for group in sorted(groups, key=len, reverse=True):  # stable: groups of equal size keep their order
            min(folds, key=len).extend(group)
        held_out = {case.id for case in folds[fold]}
    else:
        groups = _shuffled_patients(dataset.training, seed)
        if len(groups) < 2:
            kind = "case" if len(dataset.training) == 1 else "patient"
            raise DatasetError(
                where,
                [
                    f'there is one {kind} and no "validation" list; name at least one {kind} for validation, or train'
                    " without validation (validation_fraction=0)."
                ],
            )
        target = max(1, round(fraction * len(dataset.training)))
        held_out = set()
        for group in groups[:-1]:
            if len(held_out) >= target:
                break
            held_out |= {case.id for case in group}
    pool = dataset.training + dataset.validation
    return replace(
        dataset,
        training=tuple(case for case in pool if case.id not in held_out),
        validation=tuple(case for case in pool if case.id in held_out),
    )


def _stated_fold(where: Path, dataset: Dataset, items: list[Item], fold: int) -> Dataset:
    missing = [
        f"case {item.case.id!r} has no fold, but others have one; add it."
        for item in items
        if item.fold is None
    ]
    if missing:
        raise DatasetError(where, missing)
    folds = sorted({item.fold for item in items if item.fold is not None})
    if fold not in folds or len(folds) < 2:
        raise DatasetError(
            where, [f"fold {fold} was requested, but the cases have the folds {folds}; choose another fold."]
        )
    by_group: dict[str, set[int | None]] = {}
    for item in items:
        by_group.setdefault(item.case.group, set()).add(item.fold)
    leaks = [
        f"patient {group!r} is in several folds; put all cases of a patient into one fold."
        for group, found in by_group.items()
        if len(found) > 1
    ]
    if leaks:
        raise DatasetError(where, leaks)
    return replace(
        dataset,
        training=tuple(item.case for item in items if item.fold != fold),
        validation=tuple(item.case for item in items if item.fold == fold),
    )
