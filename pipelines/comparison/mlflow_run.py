"""Logging a comparison to MLflow, as a separate run in the experiment of the first compared run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.comparison.comparison import Comparison
from pipelines.comparison.html_report import write_report
from pipelines.comparison.run_finder import COMPARISON, KIND, RunError, RunFinder
from pipelines.comparison.text_report import as_text, classes_file, write_cases_csv, write_classes_csv
from pipelines.tracking.client import terminate
from pipelines.utils.installed import COMMAND
from pipelines.utils.passwords import hidden
from pipelines.utils.processes import user_name

COMPARED, METRIC = "segbundles.compared", "segbundles.metric"


def log_comparison(
    finder: RunFinder, comparison: Comparison, shown: Mapping[str, Sequence[str | None]]
) -> str:
    """Log the HTML report, CSV files and text in the first run's experiment; returns the id of the new run.

    The compared runs are not changed. Another comparison of the same runs by the same metric updates the same run.

    Args:
        shown: result of `pipelines.comparison.html_report.pictures`.

    Raises:
        RunError: MLflow failed to store the comparison.
    """
    try:
        return _log(finder, comparison, shown)
    except Exception as error:
        raise RunError(
            f"the comparison could not be logged to MLflow at {hidden(finder.uri)} ({hidden(str(error))}); use --no-log"
            " to compare without logging"
        ) from error


def _log(finder: RunFinder, comparison: Comparison, shown: Mapping[str, Sequence[str | None]]) -> str:
    client, runs = finder.client, comparison.runs
    experiment = client.get_run(runs[0].run_id).info.experiment_id
    compared = ",".join(run.run_id for run in runs)
    known = client.search_runs(
        [experiment],
        f"tags.`{COMPARED}` = '{compared}' and tags.`{METRIC}` = '{comparison.metric}'",
        max_results=1,
    )
    if known:
        run_id = known[0].info.run_id
    else:
        tags = {
            KIND: COMPARISON,
            COMPARED: compared,
            METRIC: comparison.metric,
            "mlflow.source.name": f"{COMMAND} compare",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": user_name(),
        }
        name = f"{comparison.metric}: " + " vs ".join(run.name for run in runs)
        run_id = client.create_run(experiment, run_name=name[:250], tags=tags).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        page, cases = Path(folder) / "comparison.html", Path(folder) / "comparison.csv"
        write_report(page, comparison, shown)
        write_cases_csv(cases, comparison)
        write_classes_csv(classes_file(cases), comparison)
        for path in (page, cases, classes_file(cases)):
            client.log_artifact(run_id, str(path))
    # MLflow shows this note as the description at the top of the run.
    client.set_tag(run_id, "mlflow.note.content", f"```\n{as_text(comparison)[:7000]}\n```")
    terminate(client, run_id, "FINISHED")
    return run_id
