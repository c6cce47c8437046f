"""What a journal says of a run: the first line which run it is, and one record a line after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from typing import NotRequired


class Parent(TypedDict):
    """A run whose children are others, such as the folds of a cross-validation.

    Attributes:
        key: the same in all of its children; the run of that key is made where absent.
        name: of the run.
        tags: of the run.
        spread: beginnings of the names of metrics whose mean and spread over the finished children it gets.
    """

    key: str
    name: str
    tags: NotRequired[dict[str, str]]
    spread: NotRequired[list[str]]


# "continue" cannot be the name of an attribute.
Head = TypedDict(
    "Head",
    {
        "op": str,
        "uri": str,
        "experiment": str,
        "experiment_id": "str | None",
        "key": str,
        "name": str,
        "time": int,
        "continue": "str | None",
        "named": bool,
        "parent": "Parent | None",
        "tags": dict[str, str],
        "work": str,
        "process": str,
    },
)
"""The first record: which run the journal belongs to, or is to become, see `pipelines.tracking.run_head`.

- op: "run".
- uri: tracking URI without a password.
- experiment, experiment_id, name, parent, tags: of the run.
- key: by which the run is found again.
- time: milliseconds since 1970.
- continue: the run to go on with.
- named: whether it is one that MLflow's variable MLFLOW_RUN_ID names.
- work: what is the same in two processes that do the same.
- process: JSON of `pipelines.utils.processes.Process`.
"""


class Record(TypedDict, total=False):
    """One thing that a run says; which keys it has, follows from its op.

    - metrics: time, step, values; system: time, values.
    - params, tags: values; param: key, value.
    - file, image: file, name.
    - inputs: datasets.
    - register: name, folder, value, alias, files.
    - end: time, status.
    - records: count, of ones that are lost and no more is known of.

    Attributes:
        op: what is to be done with it.
        time: milliseconds since 1970.
        values: by name.
        file: path within the journal.
        name: in the run, or of the registered model.
        whole: folder of the run whose files are of no use one without another.
        table: whether the file is an MLflow table.
        files: bytes of all files in the folder that is registered, by name.
        lost: whether it will never arrive, because a disk was full.
        refused: why it was put aside.
        run_id: of the run that it was put aside for.
    """

    op: str
    time: int
    step: int
    values: Mapping[str, Any]
    key: str
    value: Any
    file: str
    name: str
    whole: str
    table: bool
    datasets: list[dict[str, str]]
    folder: str
    alias: str
    files: Mapping[str, int]
    status: str
    count: int
    lost: bool
    refused: str
    run_id: str | None


class Delivered(TypedDict, total=False):
    """How far MLflow has a journal, see `pipelines.tracking.delivery.Delivery`; at least "offset", in bytes."""

    offset: int
    run_id: str | None
    goes_on: bool
    ended: bool
    incomplete: str
