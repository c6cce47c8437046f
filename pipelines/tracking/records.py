"""The types of the records in a journal: a first record that identifies the run, then one record per line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from typing import NotRequired


class Parent(TypedDict):
    """A parent run whose child runs belong together, such as the folds of a cross-validation.

    Attributes:
        key: identifies the parent run, which is created if there is none with this key; the same for all children.
        name: name of the parent run.
        tags: tags of the parent run.
        spread: prefixes of the names of metrics; the parent run gets their mean and spread over the finished children.
    """

    key: str
    name: str
    tags: NotRequired[dict[str, str]]
    spread: NotRequired[list[str]]


# Written as a call, because "continue" is a keyword of Python and cannot be an attribute of a class.
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
"""The first record: the run to continue or to create, see `pipelines.tracking.run_head`.

- op: "run".
- uri: tracking URI without a password.
- experiment, experiment_id: name and MLflow's id of the run's experiment.
- name, parent, tags: name, parent run and tags of the run.
- key: value of the run's tag `segbundles.key`, by which the run is found again.
- time: start of the run, in milliseconds since 1970.
- continue: id of the run to continue; None for a new run.
- named: whether that id comes from MLflow's environment variable MLFLOW_RUN_ID.
- work: identifies the work, such as one training; a process that repeats the work has the same value.
- process: the process that writes the journal, as JSON of `pipelines.utils.processes.Process`.
"""


class Record(TypedDict, total=False):
    """One logged value, file or event of a run. Its operation `op` determines its other keys:

    - metrics: time, step, values; system: time, values.
    - params, tags: values; param: key, value.
    - file, image: file, name.
    - inputs: datasets.
    - register: name, folder, value, alias, files.
    - end: time, status.
    - records: count, the number of lost records whose contents are not known.

    Attributes:
        op: name of the operation, see above.
        time: time of logging, in milliseconds since 1970.
        step: step of the metrics.
        values: metrics, parameters or tags, by name.
        key: name of a single parameter.
        value: value of a single parameter, or the metric that compares versions of a registered model.
        file: path of the file within the journal.
        name: artifact path in the run, or name of the registered model.
        whole: artifact folder that is stored completely or not at all, because its files need one another.
        table: whether the file is an MLflow table.
        datasets: see `pipelines.tracking.run.Tracking.inputs`.
        folder: artifact folder to register.
        alias: alias of the best version of the registered model.
        files: sizes in bytes of all files in the folder to register, by name.
        status: final status of the run, such as FINISHED.
        count: number of lost records.
        lost: whether the record cannot be sent, because the disk was full.
        refused: why MLflow refused the record, or why it was lost.
        run_id: MLflow's id of the run whose record was refused.
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
    """Progress of the delivery of a journal, see `pipelines.tracking.delivery.Delivery`.

    Attributes:
        offset: number of bytes of the journal that are delivered; always present.
        run_id: MLflow's id of the run.
        goes_on: whether the run existed before this journal.
        ended: whether the end of the run is delivered.
        incomplete: the lines that this journal added to the run's tag `segbundles.incomplete`.
    """

    offset: int
    run_id: str | None
    goes_on: bool
    ended: bool
    incomplete: str
