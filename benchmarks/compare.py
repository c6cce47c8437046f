"""Finding runs among many: `pipelines.comparison.run_finder` against fetching all runs with MLflow's `search_runs`.

    python benchmarks/compare.py --runs 10000

The database is filled by SQL, with the parameters, metrics and tags that a training of this project logs.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PARAMS, METRICS, TAGS = 60, 20, 25


def fill(database: Path, runs: int, experiments: int) -> None:
    """Add runs to a database whose tables MLflow has created."""
    with sqlite3.connect(database) as connection:
        for e in range(1, experiments + 1):
            connection.execute(
                "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
                "values (?, ?, ?, 'active', 'default')",
                (e, f"experiment {e}", str(database.parent / "artifacts" / str(e))),
            )
        ids = [f"{(i * 2654435761) % 2**32:08x}{i:024x}" for i in range(runs)]
        connection.executemany(
            "insert into runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, "
            "artifact_uri, experiment_id, user_id) values (?, ?, 'LOCAL', 'FINISHED', ?, ?, 'active', ?, ?, 'me')",
            (
                (
                    run,
                    f"run {i}",
                    10**12 + i,
                    10**12 + i + 1,
                    f"{database.parent}/artifacts/{run}",
                    1 + i % experiments,
                )
                for i, run in enumerate(ids)
            ),
        )
        connection.executemany(
            "insert into params (run_uuid, key, value) values (?, ?, ?)",
            (
                (run, "seed" if k == 0 else f"network_def.part_{k}", str(i if k == 0 else k))
                for i, run in enumerate(ids)
                for k in range(PARAMS)
            ),
        )
        connection.executemany(
            "insert into latest_metrics (run_uuid, key, value, timestamp, step, is_nan) values (?, ?, ?, ?, 0, 0)",
            (
                (run, f"val_dice_{k}", (i % 997) / 997, 10**12)
                for i, run in enumerate(ids)
                for k in range(METRICS)
            ),
        )
        connection.executemany(
            "insert into tags (run_uuid, key, value) values (?, ?, ?)",
            (
                (run, "mlflow.runName" if k == 0 else f"version.package_{k}", f"run {i}" if k == 0 else "1.0")
                for i, run in enumerate(ids)
                for k in range(TAGS)
            ),
        )
    connection.close()
    # Two runs have results like those of a training, which are read.
    folder = database.parent / "artifacts"
    content = {
        "format": 1,
        "split": "validation",
        "classes": ["a"],
        "cases": [{"case": "x", "dice": {"a": 0.5}}],
    }
    for i in (runs // 2, runs // 3):
        place = folder / ids[i] / "results"
        place.mkdir(parents=True)
        (place / "cases.json").write_text(json.dumps(content), encoding="utf-8")


def seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--experiments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    start = time.perf_counter()
    from pipelines.comparison.run_finder import RunFinder
    from pipelines.comparison.run_results import read_results

    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / "mlflow.db"
        uri = f"sqlite:///{database}"
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        print(f"import of MLflow and a new database: {time.perf_counter() - start:.1f} s, not counted below")
        fill(database, arguments.runs, arguments.experiments)
        size = database.stat().st_size / 2**20
        print(f"{arguments.runs} runs in {arguments.experiments} experiments, {size:.0f} MiB")
        half, third = arguments.runs // 2, arguments.runs // 3
        ids = [run.info.run_id for run in RunFinder(uri).find([f"run {half}", f"run {third}"])]
        words = {
            "names": [f"run {half}", f"run {third}"],
            "ids": ids,
            "beginnings_of_ids": [run_id[:10] for run_id in ids],
            "filter": [f"params.seed = '{half}'", f"params.seed = '{third}' and metrics.val_dice_1 >= 0"],
        }

        def everything() -> list[str]:
            """Fetch all runs and select by name, as a simple script would."""
            found, token = [], None
            experiments = [e.experiment_id for e in client.search_experiments()]
            while True:
                page = client.search_runs(experiments, max_results=1000, page_token=token)
                found += [run.info.run_id for run in page if run.info.run_name in words["names"]]
                token = page.token
                if not token:
                    return found

        own: dict[str, float] = {}
        for what, given in words.items():
            assert sorted(run.info.run_id for run in RunFinder(uri).find(given)) == sorted(ids)

            def ours(given: list[str] = given) -> None:
                finder = RunFinder(uri)
                for run in finder.find(given):
                    read_results(finder, run)

            own[what] = seconds(ours, arguments.repeats)
            print(f"by {what}: {own[what]:.3f} s, results read", flush=True)
        start = time.perf_counter()
        assert sorted(everything()) == sorted(ids)
        peer = time.perf_counter() - start
        for what, value in own.items():
            print(f"RESULT find_by_{what}_s ours={value:.3f} peer={peer:.2f} ratio={peer / value:.1f}")


if __name__ == "__main__":
    main()
