"""A dataset in another layout, made of links to the files that are there: no voxel is copied or even read.

Read are all layouts of docs/data.md; written are a dataset.json in the spelling of the Decathlon, whose paths lead to the
files, and nnU-Net's raw data. Everything that stands in the way is said before anything is written, nothing is ever
replaced, and the same command completes what an earlier one began.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.data.cases import SPLITS, Case, Dataset, DatasetError
from pipelines.data.conversion.labels import write_label_maps
from pipelines.data.conversion.links import kind_of_links, make_link, path_from
from pipelines.data.conversion.nnunet import check_folder_name, description, layout, standing_problems
from pipelines.data.conversion.splits import SPLITS_FINAL, splits_of, with_splits
from pipelines.data.dataset_folder import describe
from pipelines.data.dataset_json import Item
from pipelines.utils.file_names import readable
from pipelines.utils.json_files import JsonError, read_json
from transforms.io.masks import is_mask_folder
from transforms.utils.files import replacing, require_folder

_KEPT = ("description", "reference", "licence", "license", "release")


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        root: the folder.
        cases: list of the dataset to the number of its cases.
        by: how the folder leads to the files: "symbolic links", "hard links" or "paths".
        written: label maps that were written now.
        notices: what is not in the folder.
    """

    root: Path
    cases: dict[str, int]
    by: str
    written: int = 0
    notices: tuple[str, ...] = ()


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    to: Literal["msd", "nnunet"] = "msd",
    classes: Sequence[str] | None = None,
    splits: str | os.PathLike[str] | None = None,
    write_labels: bool = False,
) -> Converted:
    """Make a dataset of the files of another one.

    Args:
        source: a dataset folder in any layout, or its dataset.json.
        destination: the new folder; a part of it may be there from an earlier call.
        to: "msd" for a dataset.json with paths, "nnunet" for nnU-Net's raw data.
        classes: where labels are folders of masks: these classes only, in this order.
        splits: nnU-Net's splits_final.json; by default the one in `source`, where the dataset has neither folds nor a
            validation list of its own.
        write_labels: nnU-Net: write label maps for labels that cannot be linked; their voxels are read.

    Raises:
        DatasetError: listing all that is wrong with the dataset, does not go into the layout, or stands in the way.
        FolderError: the destination cannot be written to.
    """
    root, problems = Path(destination), list[str]()
    where, dataset, items = describe(Path(source), problems)
    if os.path.realpath(root) == os.path.realpath(dataset.root):
        raise DatasetError(root, ["is the dataset itself; name another folder for the new one."])
    file = Path(splits) if splits is not None else dataset.root / SPLITS_FINAL
    bare = not dataset.validation and all(item.fold is None for item in items)
    if splits is not None or (bare and file.is_file()):
        items = with_splits(items, file, problems)
    _check_folds(items, problems)
    if not dataset.labels:
        problems.append(
            "without a dataset.json its classes have no names, and voxels would have to be read for their number; write"
            ' one with "labels": {"background": 0, "liver": 1}.'
        )
    if classes is not None:
        dataset = replace(dataset, labels=_chosen(dataset, items, classes, problems))
    problems += [
        f"case {item.case.id!r}: {path}: no such file or folder."
        for item in items
        for path in item.case.files
        if not path.exists()
    ]
    made = _to_nnunet if to == "nnunet" else _to_msd
    return made(where, root, dataset, items, write_labels, problems)


def _to_msd(
    where: Path, root: Path, dataset: Dataset, items: list[Item], write_labels: bool, problems: list[str]
) -> Converted:
    if write_labels:
        problems.append("--write-labels is for nnU-Net; a dataset.json names folders of masks as they are.")
    problems += [
        f"case {item.case.id!r}: {readable(str(path))}: the name is no UTF-8, which no dataset.json can hold; rename it."
        for item in items
        for path in item.case.files
        if readable(str(path)) != str(path)
    ]
    if problems:
        raise DatasetError(where, problems)
    content = _stated(dataset)
    if dataset.value_names is dataset.labels:
        content["labels"] = {str(value): name for value, name in sorted(dataset.labels.items())}
    else:
        content["labels"] = dataset.stated_labels
    for split in SPLITS:
        content[split] = [_entry(root, item) for item in items if item.split == split]
    _require_same(root / "dataset.json", content, problems)
    if problems:
        raise DatasetError(root, problems)
    _prepare(root)
    _write_json(root / "dataset.json", content)
    return Converted(root, _counts(items), "paths")


def _to_nnunet(
    where: Path, root: Path, dataset: Dataset, items: list[Item], write_labels: bool, problems: list[str]
) -> Converted:
    check_folder_name(root, dataset.name, problems)
    wanted = layout(dataset, items, write_labels, problems)
    if problems:
        raise DatasetError(where, problems)
    problems = standing_problems(root, wanted)
    splits = splits_of(items)
    if splits:
        _require_same(root / SPLITS_FINAL, splits, problems)
    if problems:
        raise DatasetError(root, problems)
    _prepare(root)
    kind = kind_of_links(root, next(iter(wanted.links.values())))
    content = description(root, dataset, items, wanted, linked=kind != "paths")
    _require_same(root / "dataset.json", content, problems)
    if problems:
        raise DatasetError(root, problems)
    for name, file in wanted.links.items():
        path = root / name
        if kind != "paths" and not os.path.lexists(path):
            path.parent.mkdir(exist_ok=True)
            make_link(path, file, kind)
    written, problems = write_label_maps(
        root, [(case, root / name) for case, name in wanted.labels], dataset.value_names
    )
    if problems:
        raise DatasetError(root, problems)
    if splits:
        _write_json(root / SPLITS_FINAL, splits)
    _write_json(root / "dataset.json", content)  # last: a folder without it is not whole
    counts, notices = _counts(items), []
    if splits:
        notices.append(
            f"{SPLITS_FINAL} belongs into nnUNet_preprocessed/{root.name} before nnU-Net trains, which splits by itself"
            " otherwise"
        )
    masks = sum(item.case.mask is not None for item in items)
    if masks:
        notices.append(
            f"nnU-Net's folder has no place for the masks of {masks} cases; evaluate with --field_of_view and their folder"
        )
    if kind == "paths" and counts["test"]:
        notices.append(
            f"no links can be made here, so the {counts['test']} test cases are left out, which nnU-Net finds only in"
            " imagesTs"
        )
        counts["test"] = 0
    return Converted(root, counts, kind, written, tuple(notices))


def _chosen(
    dataset: Dataset, items: Sequence[Item], classes: Sequence[str], problems: list[str]
) -> dict[int, str]:
    maps = [
        item.case for item in items if item.case.label is not None and not is_mask_folder(item.case.label)
    ]
    if maps:
        problems.append(
            f"classes can be chosen of folders of masks, and {maps[0].label} is a label map whose numbers would have to be"
            " written anew; leave out --classes."
        )
    known = set(dataset.labels.values()) - {dataset.labels.get(0)}
    problems += [
        f"there is no class {name!r}; choose among {', '.join(sorted(known))}."
        for name in classes
        if name not in known
    ]
    if len(set(classes)) != len(classes):
        problems.append("a class is named twice; name each once.")
    return {0: "background", **dict(enumerate(classes, start=1))}


def _check_folds(items: Sequence[Item], problems: list[str]) -> None:
    labelled = [item for item in items if item.split != "test"]
    if any(item.fold is not None for item in labelled):
        problems += [
            f"case {item.case.id!r} has no fold, but others have one; add it."
            for item in labelled
            if item.fold is None
        ]


def _stated(dataset: Dataset) -> dict[str, Any]:
    """What a dataset says of itself beside its cases and classes."""
    content = json.loads(dataset.description) if dataset.description else {}
    found: dict[str, Any] = {"name": dataset.name, **{key: content[key] for key in _KEPT if key in content}}
    stated = content.get("channel_names", content.get("modality"))
    if isinstance(stated, list):
        stated = {str(index): name for index, name in enumerate(stated)}
    if stated:
        found["modality"] = stated
    return found


def _entry(root: Path, item: Item) -> dict[str, Any]:
    case: Case = item.case
    images = [path_from(root, image) for image in case.images]
    found: dict[str, Any] = {"case": case.id, "image": images if len(images) > 1 else images[0]}
    if case.label is not None:
        found["label"] = path_from(root, case.label)
    if case.mask is not None:
        found["mask"] = path_from(root, case.mask)
    if item.stated_group:
        found["patient"] = case.group
    if item.fold is not None:
        found["fold"] = item.fold
    return {**found, **case.reading}


def _counts(items: Sequence[Item]) -> dict[str, int]:
    return {split: sum(item.split == split for item in items) for split in SPLITS}


def _prepare(root: Path) -> None:
    require_folder(root, "the dataset", "choose another destination")


def _require_same(path: Path, content: Any, problems: list[str]) -> None:
    """A file that is there must say the same already."""
    if not os.path.lexists(path):
        return
    try:
        same = read_json(path) == content
    except (JsonError, OSError):
        same = False
    if not same:
        problems.append(
            f"{path} is there and says something else; take it away, or choose another destination."
        )


def _write_json(path: Path, content: Any) -> None:
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
