"""MLflow's store as a run's journal needs it: reached without long hangs, errors told apart, runs found by keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.tracking.journal import sqlite_file
from pipelines.utils.locks import waiting_for
from pipelines.utils.passwords import hidden
from pipelines.utils.processes import gone
from transforms.utils.files import remove_leftovers, replacing

logger = logging.getLogger(__name__)

KEY, WORK, PROCESS, PARENT_KEY = (
    "segbundles.key",
    "segbundles.work",
    "segbundles.process",
    "segbundles.parent_key",
)
PENDING = "pending-"
# MLflow shows an experiment as one of language models unless it says what it is.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}

# MLflow's own patience (7 retries of 120 s) would hold each call up for minutes; delivery has its own retries.
IMPATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}
LONGEST = 300
QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_ours: set[str] = set()

_REFUSALS = (
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
)
_DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_REFUSING_STATUS = (400, 411, 413, 414, 415, 422, 431)


class TrackingError(RuntimeError):
    """MLflow cannot be used as the run asks for it."""


def connect(uri: str) -> Any:
    """A client of the store at a URI; makes the tables of a new database.

    Raises:
        TrackingError: no store can be behind this URI, or a Python package for it is missing.
        Exception: what MLflow and its libraries raise while the store cannot be reached.
    """
    # MLflow reports its use to its makers unless told not to; patient networks should stay silent.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in IMPATIENCE.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)
    from mlflow.tracking import MlflowClient

    keep_quiet(uri)
    try:
        with sqlite_lock(uri):
            database = sqlite_file(uri)
            if database is not None and not database.exists():
                _make_database(database)
            client = MlflowClient(uri)
            if database is not None:
                client.search_experiments(max_results=1)
            return client
    except ImportError as error:
        package = _DRIVERS.get(str(error.name), error.name)
        raise TrackingError(
            f"MLflow at {hidden(uri)} needs a Python package: pip install '{package}'"
        ) from error
    except Exception as error:
        if sqlite_file(uri) is not None and re.search("already exists|duplicate column", first_line(error)):
            raise TrackingError(
                f"{sqlite_file(uri)} is no whole MLflow database ({first_line(error)}), as one is whose making was "
                "interrupted; move it away, and a new one is made"
            ) from error
        if not refused_for_good(error):
            raise
        raise TrackingError(f"MLflow cannot use {hidden(uri)}: {first_line(error)}") from error


def _make_database(database: Path) -> None:
    """Make a new SQLite database for MLflow, whole or not at all.

    MLflow takes seconds for its tables, and can do nothing with a file in which a killed process made only some.
    """
    from mlflow.tracking import MlflowClient

    remove_leftovers(database)
    # MLflow keeps the file open, which Windows does not remove then.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        replacing(database) as temporary,
    ):
        made = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        with contextlib.closing(sqlite3.connect(made)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))


def keep_quiet(uri: str) -> None:
    """Keep MLflow from printing links to runs where they would show a password; `terminate` prints them without."""
    if hidden(uri) != uri and os.environ.get(QUIET, "").lower() not in ("true", "1"):
        os.environ[QUIET] = "true"
        _ours.add(QUIET)


def terminate(client: Any, run_id: str, status: str, time_ms: int | None = None) -> None:
    """Close a run; its link is printed, as MLflow does it, without the user and password of the server's address."""
    client.set_terminated(run_id, status, time_ms)
    if QUIET in _ours and client.tracking_uri.startswith(("http://", "https://")):
        run = client.get_run(run_id)
        parts = urlsplit(client.tracking_uri)
        server = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        link = f"{server}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
        print(f"View run {run.info.run_name} at: {link}")


def wait_longer(seconds: float | None = None) -> None:
    """Give the server more time for a request: as much as said, or twice as much as before.

    Where the user has set MLflow's own variable, it stays.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    if name in _ours:
        now = int(os.environ[name])
        wanted = 2 * now if seconds is None else seconds
        os.environ[name] = str(int(min(LONGEST, max(now, wanted))))


def refused_for_good(error: BaseException) -> bool:
    """Whether a store will never take what it was given, as opposed to a store that is away or in trouble."""
    import requests
    from mlflow.exceptions import MlflowException

    text = str(error)
    if isinstance(error, MlflowException):
        # A proxy's own page, or a connection that broke under the database's driver.
        trouble = text.startswith("API request to") or "InterfaceError" in text or "OperationalError" in text
        return not trouble and error.error_code in _REFUSALS
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _REFUSING_STATUS
    if type(error).__module__.partition(".")[0] in ("sqlalchemy", "psycopg", "psycopg2", "urllib3"):
        return False
    return not isinstance(error, (OSError, ImportError, MemoryError))


def timed_out(error: BaseException) -> bool:
    """Whether a server did not answer in time."""
    text = str(error).lower()
    return "timeout" in text or "timed out" in text


def first_line(error: BaseException) -> str:
    """What an error says, short enough for one sentence and without passwords."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if "failed with exception" in text:
        # A connection that fails is wrapped by three libraries, each with its own words around it.
        text = text.rpartition("): ")[2].rstrip("'\")") or text
        text += ")" * (text.count("(") - text.count(")"))
    text = hidden(text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def experiment_id(client: Any, uri: str, name: str) -> str:
    """The experiment of that name, created where absent.

    Raises:
        TrackingError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            root = _artifact_root(uri)
            return client.create_experiment(name, artifact_location=root, tags=EXPERIMENT_KIND)
        except MlflowException:
            # Another training created it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; restore it or choose another --experiment"
        )
    for tag, value in EXPERIMENT_KIND.items():
        if tag not in found.tags:
            client.set_experiment_tag(found.experiment_id, tag, value)
    return found.experiment_id


def find_run(client: Any, experiment: str, run_id: str) -> str | None:
    """The id that MLflow knows: `run_id`, or the run that a pending id became; None if there is none yet."""
    if not run_id.startswith(PENDING):
        return run_id
    found = runs_with(client, experiment, KEY, run_id[len(PENDING) :])
    return found[0].info.run_id if found else None


def quoted(text: str) -> str:
    """A text as MLflow's filters want it: they know two quotation marks, and no way to escape either."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def runs_with(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """Runs of an experiment with a tag of that value, the first of them first."""
    found = client.search_runs([experiment], f"tags.`{tag}` = {quoted(value)}")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def parent_id(client: Any, uri: str, experiment: str, parent: Mapping[str, Any], user: str) -> str:
    """The one parent run of a key in an experiment, made where absent.

    Processes of one machine take turns. MLflow itself cannot refuse a second run of a key: of two that two
    machines made at once, both choose the earlier and the other is removed.
    """
    with _turns(f"{uri} {experiment} {parent['key']}"):
        found = runs_with(client, experiment, PARENT_KEY, parent["key"])
        if found:
            return found[0].info.run_id
        tags = {"mlflow.user": user, PARENT_KEY: parent["key"], **parent.get("tags", {})}
        made = client.create_run(experiment, run_name=parent["name"], tags=tags)
        first = runs_with(client, experiment, PARENT_KEY, parent["key"])[0]
        if first.info.run_id != made.info.run_id:
            client.delete_run(made.info.run_id)
        return first.info.run_id


def settle_parent(client: Any, parent: str, spread: list[str], time_ms: int) -> None:
    """Give a parent run the state of its children, and mean and spread of their metrics.

    Args:
        spread: beginnings of the names of metrics. Under each name the parent gets the mean over the finished
            children, and with _std (of the sample), _min, _max added the rest; `folds` is how many there are.
        time_ms: of the child's end, so that a second try writes nothing new.
    """
    experiment = client.get_run(parent).info.experiment_id
    children = runs_with(client, experiment, "mlflow.parentRunId", parent)
    # Of a fold that was trained again the newest counts, and the newest that is finished has the say.
    states = {child.data.tags.get("fold", child.info.run_id): child.info.status for child in children}
    newest = {c.data.tags.get("fold", c.info.run_id): c for c in children if c.info.status == "FINISHED"}
    finished = [child.data.metrics for child in newest.values()]
    names = sorted({name for metrics in finished for name in metrics if name.startswith(tuple(spread))})
    values: dict[str, float] = {"folds": float(len(finished))} if spread and finished else {}
    for name in names:
        known = [
            metrics[name] for metrics in finished if metrics.get(name, float("nan")) == metrics.get(name)
        ]
        if known:
            mean = sum(known) / len(known)
            # A class may be called liver_max beside another called liver.
            ends = ("std", "min", "max")
            join = "." if any(f"{name}_{end}" in names for end in ends) else "_"
            values |= {name: mean, f"{name}{join}min": min(known), f"{name}{join}max": max(known)}
            if len(known) > 1:
                values[f"{name}{join}std"] = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    for name, value in values.items():
        client.log_metric(parent, name, value, time_ms, len(finished), synchronous=True)
    if any(child.info.status == "RUNNING" for child in children):
        client.update_run(parent, status="RUNNING")
    else:
        status = next((s for s in ("FAILED", "KILLED") if s in states.values()), "FINISHED")
        terminate(client, parent, status)


def close_gone(client: Any, experiment: str, work: str, but: str) -> None:
    """Close the runs of a work whose process has certainly ended without closing them."""
    running = f"attributes.status = 'RUNNING' and tags.`{WORK}` = {quoted(work)}"
    for run in client.search_runs([experiment], running):
        if run.info.run_id != but and gone(process_of(run)):
            close_dead(client, run.info.run_id)


def close_dead(client: Any, run_id: str) -> None:
    """Close a run whose process ended without a word, and say so."""
    reason = "the process ended without closing its run (killed, out of memory, or power lost)"
    client.set_tag(run_id, "error", reason, synchronous=True)
    terminate(client, run_id, "KILLED")
    logger.info("the MLflow run %s was left open by a process that has ended; it is closed as KILLED", run_id)


def process_of(run: Any) -> dict[str, Any]:
    """The `identity` of the process that wrote a run last; empty where the run does not say."""
    try:
        found = json.loads(run.data.tags.get(PROCESS, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _artifact_root(uri: str) -> str | None:
    """Beside a SQLite file, in the working directory for another database; a server has a place of its own.

    MLflow itself would take `mlruns` relative to whoever reads, which another folder's `mlflow ui` cannot follow.
    """
    database = sqlite_file(uri)
    if database is None and not uri.startswith(("postgresql", "mysql", "mssql")):
        return None
    return ((database.parent if database is not None else Path.cwd()) / "mlartifacts").as_uri()


@contextlib.contextmanager
def sqlite_lock(uri: str) -> Iterator[None]:
    """Let one process at a time create the tables of a new SQLite file; two at once break each other."""
    database = sqlite_file(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    # A file system without locks has to do without.
    with waiting_for(f"{database}.lock", patience=120):
        yield


@contextlib.contextmanager
def _turns(name: str) -> Iterator[None]:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with waiting_for(Path(tempfile.gettempdir()) / f"segbundles-{user}-{digest}.lock", patience=30):
        yield
