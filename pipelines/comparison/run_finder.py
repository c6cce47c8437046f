"""Finding MLflow runs by an id or its first characters, a name, or a filter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.tracking.client import first_line, new_client
from pipelines.tracking.journal import sqlite_file
from pipelines.utils.mlflow_variables import tracking_uri
from pipelines.utils.passwords import hidden
from transforms.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

MOST = 20
COMPARISON = "comparison"
KIND = "segbundles.kind"
_VARIABLES = {
    # With the default of seven retries, a wrong address is reported only after minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RunError(UserError, ValueError):
    """A run cannot be found or has no results to compare."""


class RunFinder:
    """Finds runs in one tracking store with MLflow's own filters, so that only the requested runs are fetched.

    Args:
        uri: tracking URI; None for MLFLOW_TRACKING_URI or `sqlite:///mlflow.db` in the working directory.
        experiment: search for names and filters only in this experiment.

    Raises:
        RunError: the database, server or experiment does not exist or cannot be read.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self.uri = tracking_uri(uri)
        file = sqlite_file(self.uri)
        # MLflow would create an empty database at a mistyped path.
        if file is not None and not file.is_file():
            raise RunError(
                f"there is no MLflow database at {file}; go to the folder that the training "
                "ran in, or give --tracking-uri"
            )
        self.client: MlflowClient = self._call(new_client, self.uri, _VARIABLES)
        self._names: dict[str, str] = {}
        self._experiments = self._experiment_ids(experiment)

    def find(self, words: Sequence[str]) -> list[Run]:
        """The runs that the words identify, without duplicates, in the order of the words.

        Args:
            words: each an id or its first characters, a name, or a filter, whose runs are sorted by start time.

        Raises:
            RunError: an id or name matches no run or several, a filter matches none, or there are fewer than two runs.
        """
        found: dict[str, Run] = {}
        for word in words:
            for run in self._runs(word.strip()):
                found.setdefault(run.info.run_id, run)
        if len(found) < 2:
            only = next(iter(found.values()), None)
            what = f"only the run {described(only)}" if only else "no run"
            raise RunError(f"'{', '.join(words)}' matches {what}; give two or more runs to compare")
        if len(found) > MOST:
            raise RunError(f"{len(found)} runs match; give at most {MOST} runs to compare")
        return list(found.values())

    def experiment_of(self, run: Run) -> str:
        """Name of the experiment that a run is in."""
        key = run.info.experiment_id
        if key not in self._names:
            self._names[key] = self._call(self.client.get_experiment, key).name
        return self._names[key]

    def children(self, run: Run) -> list[Run]:
        """The child runs of a run (the folds of a cross-validation), oldest first."""
        return self._search(f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", 1000)

    def _runs(self, word: str) -> list[Run]:
        looks_like_id = re.fullmatch("[0-9a-f]{4,32}", word) is not None
        if looks_like_id and len(word) == 32:
            return [self._by_id(word)]
        if word:
            named = self._named(word)
            if named:
                return [_only(named, f"the name '{word}'")]
        if looks_like_id:
            begun = self._search(f"attributes.run_id LIKE '{word}%'")
            if begun:
                return [_only(begun, f"an id that begins with {word}")]
        if not re.search(r"[=<>]|\b(like|in|is)\b", word, re.IGNORECASE):
            raise RunError(
                f"'{word}' is neither the name of a run nor the beginning of a run id in {self._where()}; "
                "`mlflow ui` lists the runs"
            )
        matches = [run for run in self._filtered(word) if run.data.tags.get(KIND) != COMPARISON]
        if not matches:
            raise RunError(f"no run in {self._where()} matches the filter {word}")
        if len(matches) > MOST:
            raise RunError(f"more than {MOST} runs match the filter {word}; narrow it, or add --experiment")
        return matches

    def _named(self, name: str) -> list[Run]:
        if "'" not in name:
            return self._search(f"attributes.run_name = '{name}'")
        if '"' not in name:
            return self._search(f'attributes.run_name = "{name}"')
        # A text in MLflow's filters cannot contain both kinds of quotes; in a pattern, _ matches any character.
        pattern = name.replace("'", "_")
        return [
            run for run in self._search(f"attributes.run_name LIKE '{pattern}'") if run.info.run_name == name
        ]

    def _by_id(self, run_id: str) -> Run:
        try:
            run = self.client.get_run(run_id)
        except Exception as error:
            raise RunError(f"there is no run {run_id} in {self._where()} ({first_line(error)})") from error
        if run.info.lifecycle_stage != "active":
            raise RunError(
                f"the run {described(run)} was deleted; restore it with `mlflow runs restore --run-id {run_id}`"
            )
        return run

    def _filtered(self, text: str) -> list[Run]:
        from mlflow.exceptions import MlflowException

        try:
            # Twice the limit, because runs of comparisons among them are removed afterwards.
            return self._search(text, 2 * MOST + 1)
        except MlflowException as error:
            raise RunError(
                f"'{text}' is neither the name of a run nor a valid MLflow filter ({first_line(error)})"
            ) from error

    def _search(self, text: str, most: int = MOST + 1) -> list[Run]:
        return list(
            self.client.search_runs(
                self._experiments, text, max_results=most, order_by=["attributes.start_time ASC"]
            )
        )

    def _experiment_ids(self, name: str | None) -> list[str]:
        if name is not None:
            found = self._call(self.client.get_experiment_by_name, name)
            if found is None or found.lifecycle_stage != "active":
                known = ", ".join(sorted(e.name for e in self.client.search_experiments())[:10])
                raise RunError(f"there is no experiment '{name}' at {hidden(self.uri)}; there are: {known}")
            self._names[found.experiment_id] = found.name
            return [found.experiment_id]
        token = None
        while True:
            page = self._call(self.client.search_experiments, page_token=token)
            self._names.update({item.experiment_id: item.name for item in page})
            token = page.token
            if not token:
                return list(self._names)

    def _where(self) -> str:
        if len(self._experiments) == 1:
            return f"the experiment '{self._names[self._experiments[0]]}' of {hidden(self.uri)}"
        return hidden(self.uri)

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise RunError(f"MLflow at {hidden(self.uri)} cannot be read: {first_line(error)}") from error


def described(run: Run) -> str:
    """Name and short id of a run for messages."""
    return f"'{run.info.run_name}' ({run.info.run_id[:8]})"


def _only(runs: list[Run], what: str) -> Run:
    if len(runs) == 1:
        return runs[0]
    shown = [f"{run.info.run_id[:12]} of {_day(run)}" for run in runs[:10]]
    more = " and more" if len(runs) > 10 else ""
    raise RunError(f"several runs have {what}: {', '.join(shown)}{more}; give the id of one of them")


def _day(run: Run) -> str:
    return f"{datetime.fromtimestamp(run.info.start_time / 1000):%Y-%m-%d %H:%M}"
