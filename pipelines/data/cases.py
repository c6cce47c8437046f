"""The description of a dataset: its cases with ids, labels and splits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

from pipelines.utils.threads import in_threads
from transforms.errors import FAILED, ImageError, SettingError, UserError
from transforms.io.image_files import image_files
from transforms.io.readers import read_header
from transforms.label_values import check_label_values, structures_of
from transforms.utils.walk import files_below

__all__ = ["SPLITS", "Case", "Dataset", "DatasetError", "check_label_values", "first_image", "image_paths"]

if TYPE_CHECKING:
    from typing import NotRequired

SPLITS = ("training", "validation", "test")
_SHOWN = 20


class DatasetError(UserError, ValueError):
    """A dataset cannot be used; the message lists the reasons (at most 20) and how many there are.

    Attributes:
        problems: all reasons.
    """

    exit_status = FAILED

    def __init__(self, where: str | Path, problems: Sequence[str]):
        self.where = where
        self.problems = tuple(problems)
        # Not the text: when an error is sent between processes, pickle constructs it again from these arguments.
        super().__init__(where, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.where}: {self.problems[0]}"
        shown = "".join(f"\n  - {problem}" for problem in self.problems[:_SHOWN])
        more = f"\n  ... and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
        return f"{self.where}: {len(self.problems)} problems:{shown}{more}"


class Reading(TypedDict, total=False):
    """Options for reading an image, see `transforms.io.readers.read_image`.

    Attributes:
        series: which series of a DICOM folder.
        allow: irregularities of a DICOM series that are accepted.
    """

    series: str | int
    allow: list[str]


class Options(Reading, total=False):
    """The options that affect how a case is stored.

    For a DICOM label they include the names of its segments, for a dataset with an ignore label its value.
    """

    names: dict[str, str]
    ignore: int


class CaseItem(Reading):
    """A case as an item of a MONAI data list.

    Attributes:
        case: its id.
        image: path; a list of paths if the channels lie in several files.
        label: path; absent if the case has none.
        problem: why the image cannot be read, if that is known before reading it.
        mask: path of the mask of the pixels that an evaluation counts, if the case has one.
        ignore: value of voxels in the label that nobody has annotated, if the dataset has one.
        segments: value to the name of its segment in a DICOM label, if this is not the name of the class.
    """

    case: str
    image: str | list[str]
    label: NotRequired[str]
    problem: NotRequired[str]
    mask: NotRequired[str]
    ignore: NotRequired[int]
    segments: NotRequired[dict[int, str]]


@final
class UnreadableCase(TypedDict):
    """A case that cannot be read, and why."""

    case: str
    problem: str


@dataclass(frozen=True)
class Case:
    """One image with its label.

    Attributes:
        id: unique in the dataset and safe as a file name.
        images: file, or folder of DICOM slices; several hold the channels one after another.
        label: file, or folder with one DICOM SEG or RTSTRUCT. None only in the test list.
        group: the patient; cases of one group are never split between training and validation.
        series: which series of a DICOM folder, see `transforms.io.readers.read_image`.
        allow: irregularities of a DICOM series that are accepted, see
            `transforms.io.readers.read_image`.
        mask: file with the pixels that an evaluation counts, such as the field of view of a photograph.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    group: str
    series: str | None = None
    allow: tuple[str, ...] = ()
    mask: Path | None = None

    @property
    def image(self) -> Path:
        """The image; of several files the first."""
        return self.images[0]

    @property
    def files(self) -> list[Path]:
        """Every file or folder that the case names."""
        return [path for path in (*self.images, self.label, self.mask) if path is not None]

    @property
    def reading(self) -> Reading:
        """Options for reading the image; only those that are set."""
        found: Reading = {}
        if self.series:
            found["series"] = self.series
        if self.allow:
            found["allow"] = list(self.allow)
        return found


@dataclass(frozen=True)
class Dataset:
    """Cases, class names and splits of one dataset folder.

    Attributes:
        root: the folder.
        name: from dataset.json, else the folder's name.
        labels: class id to name, 0 (background) to K-1 without gaps.
        training, validation, test: the splits.
        channels: number of channels according to dataset.json ("modality" or "channel_names"), an argument of
            `transforms.io.readers.read_image`. None where it names none, see `num_channels`.
        description: content of dataset.json with sorted keys, part of the digest; empty without a dataset.json.
        regions: name to the class ids that make it up, if dataset.json names regions: then these are trained for and
            measured, and the classes exclude one another.
        ignore: value of voxels in label maps that nobody has annotated; None if there is none.
        segments: value to the name of its segment in DICOM labels; empty without a dataset.json.
    """

    root: Path
    name: str
    labels: dict[int, str]
    training: tuple[Case, ...]
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    channels: int | None = None
    description: str = field(default="", repr=False)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: int | None = None
    segments: Mapping[int, str] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the class ids, background first."""
        return [self.labels[index] for index in range(self.num_classes)]

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """What is measured: name to its class ids; the regions, or without any each foreground class for itself."""
        return structures_of(self.labels, self.regions)

    @property
    def stated_labels(self) -> dict[str, int | list[int]]:
        """Classes or regions, and the value to ignore, as the "labels" of nnU-Net's dataset.json."""
        stated: dict[str, int | list[int]] = {self.labels[0]: 0}
        for name, values in self.structures.items():
            stated[name] = list(values) if self.regions else values[0]
        return stated if self.ignore is None else {**stated, "ignore": self.ignore}

    @property
    def value_names(self) -> Mapping[int, str]:
        """Values of label maps to the names of their DICOM segments, with regions or a value to ignore; else classes."""
        return self.segments if self.regions or self.ignore is not None else self.labels

    @property
    def channel_names(self) -> list[str]:
        """The names of the channels in dataset.json, "channel_names" or "modality"; empty where it has none."""
        content = json.loads(self.description) if self.description else {}
        stated = content.get("channel_names", content.get("modality"))
        names = list(stated.values()) if isinstance(stated, dict) else stated
        names = [names] if isinstance(names, str) else names
        return [str(name) for name in names or []]

    @cached_property
    def num_channels(self) -> int:
        """Number of channels of every image: what dataset.json states, else that of the first image's header.

        Raises:
            DatasetError: the header cannot be read.
        """
        if self.channels is not None:
            return self.channels
        case = next(case for split in SPLITS for case in self.cases(split))
        try:
            return read_header(case.images, **case.reading).channels
        except (ImageError, OSError) as error:
            raise DatasetError(f"case {case.id!r}", [str(error)]) from error

    def cases(self, split: str) -> tuple[Case, ...]:
        """Return the cases of "training", "validation" or "test"."""
        if split not in SPLITS:
            raise SettingError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        return getattr(self, split)

    def as_dicts(self, split: str) -> list[CaseItem]:
        """Return a MONAI data list; items include the reading options of dataset.json, if any."""
        items = []
        for case in self.cases(split):
            images = [str(image) for image in case.images]
            item: CaseItem = {
                "image": images if len(images) > 1 else images[0],
                "case": case.id,
                **case.reading,
            }
            if case.mask is not None:
                item["mask"] = str(case.mask)
            if case.label is not None:
                item["label"] = str(case.label)
                if self.ignore is not None:
                    item["ignore"] = self.ignore
                if self.value_names is not self.labels:
                    item["segments"] = dict(self.value_names)
            items.append(item)
        return items

    def anonymous(self) -> Dataset:
        """The same with numbers instead of the ids of cases, in the order of the ids, and without its name.

        Examples:
            >>> case = Case("Doe^Jane", (Path("doe.nii.gz"),), None, "Doe")
            >>> Dataset(Path("hospital"), "hospital", {}, (case,)).anonymous().training[0].id
            'case001'
        """
        ids = sorted(case.id for split in SPLITS for case in self.cases(split))
        numbers = {name: numbered_id(number) for number, name in enumerate(ids, start=1)}
        training, validation, test = (
            tuple(replace(case, id=numbers[case.id]) for case in self.cases(split)) for split in SPLITS
        )
        return replace(self, name="dataset", training=training, validation=validation, test=test)

    def digest(self) -> str:
        """Return the SHA-256 of dataset.json and the splits, with path, size and modification time of every file.

        Paths are relative to the folder: a dataset that is moved with its modification times keeps its digest.
        """
        rows = [(split, case) for split in SPLITS for case in self.cases(split)]
        sha = hashlib.sha256(json.dumps([self.description, self.class_names, self.channels]).encode())
        for line in in_threads(lambda row: _digest_line(self.root, *row), rows, "fingerprint of"):
            sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return sha.hexdigest()


def _digest_line(root: Path, split: str, case: Case) -> str:
    fields: list[Any] = [split, case.id, case.group, *([case.reading] if case.reading else [])]
    # A dataset without masks keeps the digest that it had before there were any.
    for path in (*case.images, case.label, *([] if case.mask is None else [case.mask])):
        if path is None:
            fields.append(None)
            continue
        try:
            name = path.relative_to(root).as_posix()
        except ValueError:
            name = str(path)
        whole = path.is_dir()
        try:
            found = sorted(files_below(path, hidden=True, dangling=False)) if whole else image_files(path)
            stats = [
                (file.relative_to(path).as_posix() if whole else file.name, file.stat()) for file in found
            ]
        except OSError as error:
            raise DatasetError(
                f"case {case.id!r}", [f"{error.filename}: cannot be read ({error.strerror})."]
            ) from error
        fields.append([name, [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]])
    return json.dumps(fields)


def numbered_id(number: int) -> str:
    """The id of a case in an anonymous command."""
    return f"case{number:03d}"


def image_paths(item: CaseItem) -> list[str]:
    """The files or folders that hold the image of a case, one or its channels one after another."""
    image = item["image"]
    return [os.fspath(image)] if isinstance(image, (str, os.PathLike)) else list(image)


def first_image(item: CaseItem) -> str:
    """The file or folder of a case's image; of several the first, by whose name a case goes."""
    return image_paths(item)[0]


def segment_names(item: CaseItem, labels: Mapping[int, str] | None) -> Mapping[int, str] | None:
    """Value to the name of its segment where the label of an item is DICOM: what the item says, else the classes."""
    return item.get("segments", labels)


def reading(item: Reading) -> Reading:
    """Options for reading the image of an item; only those that are set."""
    found: Reading = {}
    if item.get("series"):
        found["series"] = item["series"]
    if item.get("allow"):
        found["allow"] = item["allow"]
    return found
