"""MLflow gets each record of a journal exactly once, however often the process is killed."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
from pathlib import Path

from mlflow.tracking import MlflowClient

from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import journals
from pipelines.tracking.run import Tracking
from tests.pipelines.tracked_runs import runs, steps
from tests.pipelines.tracking.killed import killed, train_forever
from tests.waiting import PATIENCE

FORK = multiprocessing.get_context("fork")


def test_killed_at_any_moment_a_run_has_each_record_once(uri, tmp_path, caplog):
    """Each start continues the run of the previous start, as a training does from its checkpoint."""
    moments = random.Random(4)
    run_id, last_step = None, -1
    for _ in range(8):
        lines = killed(moments.uniform(0.0, 0.25), train_forever, uri, continue_run=run_id)
        assert run_id in (None, lines[0])
        run_id = lines[0]
        last_step = max([last_step, *map(int, lines[1:])])
    with Tracking("e", uri=uri, system_metrics=None) as tracking:
        assert tracking.start(continue_run=run_id) == run_id
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    logged = steps(uri, run_id)
    assert len(logged) == len(set(logged)), "no step is logged twice"
    assert set(range(last_step + 1)) <= set(logged), "no step is lost"
    assert not (tmp_path / "mlflow_spool").exists()
    assert "cannot" not in caplog.text


def test_a_journal_that_is_sent_twice_is_stored_once(uri, tmp_path):
    """The progress of the delivery is lost, as if the process were killed before saving it."""
    tracking = Tracking("e", uri=uri, flush_seconds=3600, system_metrics=None)
    run_id = tracking.start()
    for step in range(50):
        tracking.metrics({"loss": float(step), "nan": float("nan"), "inf": float("inf")}, step)
    tracking.tags({"a": "b"})
    tracking.inputs(
        [{"name": "d", "digest": "1", "source_type": "local", "source": "s", "context": "training"}]
    )
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "mlflow_spool", copy)
    tracking.finish("FINISHED")
    for _ in range(2):
        spool = tmp_path / "spool"
        shutil.copytree(copy, spool)
        for journal in journals(spool):
            (journal.folder / "delivered.json").unlink()
            journal.take()
            delivery = Delivery(journal, MlflowClient(uri))
            assert delivery.open() == run_id
            delivery.advance()
            journal.release()
        shutil.rmtree(spool)
    (run,) = runs(uri)
    for name in ("loss", "nan", "inf"):
        assert steps(uri, run_id, name) == list(range(50))
    assert len(run.inputs.dataset_inputs) == 1


def train_with_a_full_database(uri, answer):
    """A limit of the file size has the effect of a full disk, so that SQLite itself fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Path(uri.removeprefix("sqlite:///")).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    options = {"flush_seconds": 0.1, "finish_seconds": PATIENCE, "system_metrics": None}
    with Tracking("e", uri=uri, **options) as tracking:
        answer.put(tracking.start())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
        for step in range(3000):
            tracking.metrics({"loss": 1.0}, step)
        answer.put(tracking.flush())
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tracking.metrics({"loss": 1.0}, 3000)
    os._exit(0)


def test_a_database_on_a_full_disk_gets_all_records_when_there_is_space_again(uri):
    answer = FORK.SimpleQueue()
    process = FORK.Process(target=train_with_a_full_database, args=(uri, answer))
    process.start()
    run_id = answer.get()
    assert answer.get() is False, "the limit has an effect"
    process.join()
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert steps(uri, run_id) == list(range(3001))
