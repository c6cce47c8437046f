"""`python -m pipelines compare`: compares MLflow runs case by case."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pipelines.metrics.names import METRICS
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE

_EXIT = "exit status: 0 success, 2 an argument or a file is not valid"


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "compare",
        help="compare trainings or evaluations case by case",
        description="Compare MLflow runs on the cases and classes that they share. The first run is the baseline.",
        epilog=_EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run id or its first characters, run name, or MLflow filter such as \"params.seed = '1'\"; "
        "all runs that match a filter are compared, oldest first",
    )
    parser.add_argument(
        "--metric", choices=list(METRICS), default="dice", help="metric to compare (default: dice)"
    )
    parser.add_argument(
        "--experiment", metavar="NAME", help="search names and filters only in this experiment"
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow tracking store (default: MLFLOW_TRACKING_URI, else mlflow.db in the working directory)",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=_csv,
        help="also write every value to FILE, and the statistics per class to a second file whose name ends in "
        "_classes.csv",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="also write an HTML page with plots and pictures"
    )
    parser.add_argument("--no-log", action="store_true", help="do not store the comparison in MLflow")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the bootstrap (default: 0)")


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Compare the runs, print the result, write the files that were asked for, and log to MLflow."""
    for path in (arguments.csv, arguments.html):
        if path is not None and path.is_dir():
            parser.error(f"{path} is a folder; give the path of a file")
    with gc_paused():
        import mlflow.tracking  # noqa: F401  (needed by `run_finder`)

        from pipelines.comparison.comparison import compare
        from pipelines.comparison.html_report import pictures, write_report
        from pipelines.comparison.mlflow_run import log_comparison
        from pipelines.comparison.run_finder import RunFinder
        from pipelines.comparison.run_results import read_results
        from pipelines.comparison.text_report import as_text, classes_file, write_cases_csv, write_classes_csv
        from transforms.utils.files import require_folder

    for path, option in ((arguments.csv, "--csv"), (arguments.html, "--html")):
        if path is not None:
            require_folder(path.parent, "the comparison", f"name another file with {option}")
    finder = RunFinder(arguments.tracking_uri, arguments.experiment)
    runs = [read_results(finder, run) for run in finder.find(arguments.runs)]
    comparison = compare(runs, arguments.metric, arguments.seed)
    print(as_text(comparison))
    written = []
    if arguments.csv is not None:
        write_cases_csv(arguments.csv, comparison)
        write_classes_csv(classes_file(arguments.csv), comparison)
        written += [arguments.csv, classes_file(arguments.csv)]
    shown = pictures(finder, comparison) if arguments.html is not None or not arguments.no_log else {}
    if arguments.html is not None:
        write_report(arguments.html, comparison, shown)
        written.append(arguments.html)
    if written:
        print(f"\nwritten: {', '.join(map(str, written))}")
    if not arguments.no_log:
        run_id = log_comparison(finder, comparison, shown)
        print(f"\nlogged to MLflow as run {run_id} of experiment {runs[0].experiment}")
    sys.stdout.flush()
    return DONE


def _csv(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".csv":
        raise argparse.ArgumentTypeError(f"{text} does not end in .csv")
    return path
