"""Connects to an MLflow store with short timeouts, and tells final refusals from temporary failures.

An MLflow that is too old, here, on the server or for the database, is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.tracking.journal import sqlite_file
from pipelines.utils.locks import waiting_for
from pipelines.utils.passwords import hidden
from transforms.errors import UserError
from transforms.utils.files import remove_leftovers, replacing

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)


# MLflow's defaults (7 retries of 120 s) would block each call for minutes; the delivery has its own retries.
SHORT_TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}
OLDEST, OLDEST_SERVER = (3, 5), (3, 0)
"""Versions of MLflow: of the package, as `requirements.txt` has it, and of a server. An older server lacks the endpoints
for logged models, by which a client of today registers a model."""
UPGRADE = f"pip install --upgrade 'mlflow>={OLDEST[0]}.{OLDEST[1]}'"
LONGEST = 300
QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
# Environment variables that this module set. Only these may be changed; the user's own values stay.
_set_here: set[str] = set()

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


class TrackingError(UserError, RuntimeError):
    """MLflow cannot be used with these settings."""


def connect(uri: str) -> Any:
    """Create a client of the MLflow store at a URI, and the tables of a new database.

    Raises:
        TrackingError: the URI is not valid for a store, a Python package for it is missing, or MLflow is too old, here
            or on the server.
        Exception: any error of MLflow and its libraries while the store cannot be reached.
    """
    try:
        with sqlite_lock(uri):
            database = sqlite_file(uri)
            if database is not None and not database.exists():
                _make_database(database)
            client = new_client(uri, SHORT_TIMEOUTS)
            if database is not None:
                client.search_experiments(max_results=1)
            elif uri.startswith(("http://", "https://")):
                _require_server(uri)
            return client
    except TrackingError:
        raise
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            raise TrackingError(
                f"MLflow {_installed()} does not fit the packages beside it ({first_line(error)}); run: {UPGRADE}"
            ) from error
        package = _DRIVERS.get(str(error.name), error.name)
        raise TrackingError(
            f"MLflow at {hidden(uri)} needs a Python package: pip install '{package}'"
        ) from error
    except Exception as error:
        if sqlite_file(uri) is not None and re.search("already exists|duplicate column", first_line(error)):
            raise TrackingError(
                f"{sqlite_file(uri)} is an incomplete MLflow database ({first_line(error)}), probably because its "
                "creation was interrupted; move the file elsewhere, and a new database will be created"
            ) from error
        if not refused_for_good(error) and _found_schema(error) is None:
            raise
        raise TrackingError(f"MLflow cannot use {hidden(uri)}: {first_line(error)}") from error


def new_client(uri: str, variables: Mapping[str, str]) -> MlflowClient:
    """Create MLflow's client of a store, with telemetry turned off and without printed links that contain a password.

    Args:
        uri: tracking URI.
        variables: environment variables of MLflow, set for this process unless the user has set them.

    Raises:
        TrackingError: the MLflow that is installed is older than `OLDEST`.
    """
    found = _installed()
    if found is not None and _release(found) < OLDEST:
        raise TrackingError(
            f"MLflow {found} is installed, and {OLDEST[0]}.{OLDEST[1]} or newer is needed; run: {UPGRADE}"
        )
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **variables}.items():
        if name not in os.environ:
            os.environ[name] = value
            _set_here.add(name)
    from mlflow.tracking import MlflowClient

    keep_quiet(uri)
    return MlflowClient(uri)


def _installed() -> str | None:
    """Version of the MLflow that is installed; None if it is not known, as conda may spell the package otherwise."""
    for name in ("mlflow", "mlflow-skinny"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _release(version: str) -> tuple[int, ...]:
    """Its first two numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _require_server(uri: str) -> None:
    """Raise TrackingError if a server says that it is older than `OLDEST_SERVER`; one that does not say it is taken."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(get_default_host_creds(uri), "/version", "GET", timeout=5, max_retries=0)
    except (MlflowException, OSError) as error:
        logger.debug("the version of MLflow at %s is not known: %s", hidden(uri), first_line(error))
        return
    found = answer.text.strip()
    if re.fullmatch(r"\d+(\.\w+)+", found) and _release(found) < OLDEST_SERVER:
        raise TrackingError(
            f"the server at {hidden(uri)} is MLflow {found}, and {OLDEST_SERVER[0]}.{OLDEST_SERVER[1]} or newer is needed; "
            f"where it runs, run: {UPGRADE}; or use another store (MLFLOW_TRACKING_URI)"
        )


def _make_database(database: Path) -> None:
    """Create a new SQLite database for MLflow atomically.

    MLflow needs seconds to create its tables, and cannot use a file in which a killed process created only some.
    """
    remove_leftovers(database)
    # MLflow keeps the file open, and Windows cannot remove an open file.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        replacing(database) as temporary,
    ):
        created = Path(folder) / "mlflow.db"
        new_client(f"sqlite:///{created}", SHORT_TIMEOUTS).search_experiments(max_results=1)
        with contextlib.closing(sqlite3.connect(created)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))


def keep_quiet(uri: str) -> None:
    """Stop MLflow from printing links to runs that contain a password; `terminate` prints them without it."""
    if hidden(uri) != uri and os.environ.get(QUIET, "").lower() not in ("true", "1"):
        os.environ[QUIET] = "true"
        _set_here.add(QUIET)


def terminate(client: Any, run_id: str, status: str, time_ms: int | None = None) -> None:
    """Close a run, and print its link as MLflow does, but without user and password."""
    client.set_terminated(run_id, status, time_ms)
    if QUIET in _set_here and client.tracking_uri.startswith(("http://", "https://")):
        run = client.get_run(run_id)
        parts = urlsplit(client.tracking_uri)
        server = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        link = f"{server}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
        print(f"View run {run.info.run_name} at: {link}")


def wait_longer(seconds: float | None = None) -> None:
    """Increase the timeout of requests to `seconds`, or to twice its present value; a timeout set by the user stays."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    if name in _set_here:
        now = int(os.environ[name])
        wanted = 2 * now if seconds is None else seconds
        os.environ[name] = str(int(min(LONGEST, max(now, wanted))))


def refused_for_good(error: BaseException) -> bool:
    """Whether an error is a final refusal by the store, as opposed to a temporary failure."""
    import requests
    from mlflow.exceptions import MlflowException

    text = str(error)
    if isinstance(error, MlflowException):
        # An error page of a proxy, or a broken connection to the database, is a temporary failure.
        temporary = (
            text.startswith("API request to") or "InterfaceError" in text or "OperationalError" in text
        )
        return not temporary and error.error_code in _REFUSALS
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
    """The first line of an error's message, shortened and without passwords; other advice where MLflow's is wrong."""
    schema = _found_schema(error)
    if schema is not None and not _is_known(schema):
        return f"a newer MLflow than {_installed()}, which is here, has written the database; run: {UPGRADE}"
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if "failed with exception" in text:
        # The cause of a failed connection is nested in the messages of three libraries.
        text = text.rpartition("): ")[2].rstrip("'\")") or text
        text += ")" * (text.count("(") - text.count(")"))
    text = hidden(text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _found_schema(error: BaseException) -> str | None:
    """The revision of a database's tables, if MLflow refuses them since they are not its own."""
    found = re.search(
        r"out-of-date database schema \(found version (\w+)|Can't locate revision identified by '(\w+)'",
        str(error),
    )
    return found and (found[1] or found[2])


def _is_known(schema: str) -> bool:
    """Whether the MLflow that is installed can upgrade a database from a revision of its tables."""
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    return any(migrations.glob(f"{schema}_*.py"))


@contextlib.contextmanager
def sqlite_lock(uri: str) -> Iterator[None]:
    """Allow only one process at a time to create the tables of a new SQLite file; two at once damage it."""
    database = sqlite_file(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    # On a file system without locks this does not wait.
    with waiting_for(f"{database}.lock", timeout=120):
        yield
