"""Journals on disk and their delivery: whole lines, nothing lost or twice."""

import errno
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import Journal, journals, spool_folder, with_refused
from pipelines.tracking.run import Tracking
from pipelines.utils import processes as liveness
from pipelines.utils.processes import alive, gone, identity
from tests.file_systems import refuse_folder_sync
from tests.pipelines.tracked_runs import patient
from tests.waiting import PATIENCE

FORK = multiprocessing.get_context("fork")
HEAD = {"op": "run", "key": "0123456789abcdef"}


@pytest.fixture
def uri(template, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    patient(monkeypatch)
    return f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"


def runs(uri, experiment="e"):
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def steps(uri, run_id, name="loss"):
    return sorted(m.step for m in MlflowClient(uri).get_metric_history(run_id, name))


# The journal.


@settings(max_examples=60)
@given(
    records=st.lists(
        st.dictionaries(st.text(max_size=8), st.floats() | st.text() | st.none(), max_size=4), max_size=8
    ),
    cut=st.integers(0, 200),
)
def test_a_journal_cut_anywhere_is_the_records_before(tmp_path_factory, records, cut):
    root = tmp_path_factory.mktemp("spool")
    journal = Journal.create(root, HEAD)
    ends = []
    for record in records:
        journal.append(record)
        ends.append(journal.size)
    whole = [record for record, _ in journal.records(0)]
    assert [json.dumps(r) for r in whole] == [json.dumps(r) for r in [HEAD, *records]]
    journal.release()
    os.truncate(journal.folder / "journal.jsonl", max(0, journal.size - cut))
    kept = [record for record, _ in journal.records(0)]
    assert len(kept) == sum(end <= journal.size for end in [len(json.dumps(HEAD)) + 1, *ends])
    assert [json.dumps(r) for r in kept] == [json.dumps(r) for r in whole[: len(kept)]]
    shutil.rmtree(root)


def test_reading_goes_on_from_any_record(tmp_path):
    journal = Journal.create(tmp_path, HEAD)
    for number in range(5):
        journal.append({"n": number})
    places = [end for _, end in journal.records(0)]
    for index, end in enumerate(places):
        assert [record.get("n") for record, _ in journal.records(end)] == list(range(index, 5))


def test_a_damaged_line_costs_only_itself(tmp_path, caplog):
    journal = Journal.create(tmp_path, HEAD)
    journal.append({"n": 1})
    with (journal.folder / "journal.jsonl").open("ab") as stream:
        stream.write(b"\0\0{\n")
    journal.append({"n": 2})
    assert [record.get("n") for record, _ in journal.records(0)] == [None, 1, 2]
    assert "damaged line" in caplog.text


def write_on_a_full_disk(root, answer):
    """A file-size limit stands for the full disk: writing fails with OSError, in the middle of a line."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal.create(Path(root), HEAD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 20, hard))
    for number in range(3):
        journal.append({"n": number, "text": "x" * 30})
    answer.put(journal.unwritten)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append({"n": 3})
    answer.put(journal.unwritten)
    os._exit(0)


def test_a_full_disk_tears_no_line_and_loses_none_once_there_is_room(tmp_path):
    answer = FORK.SimpleQueue()
    process = FORK.Process(target=write_on_a_full_disk, args=(tmp_path, answer))
    process.start()
    assert answer.get() > 60, "the limit held"
    assert answer.get() == 0
    process.join()
    (journal,) = journals(tmp_path)
    assert [record.get("n") for record, _ in journal.records(0)] == [None, 0, 1, 2, 3]


def test_a_kept_file_is_the_file_of_that_moment(tmp_path):
    journal = Journal.create(tmp_path / "spool", HEAD)
    for size in (10, 9 << 20):  # copied, linked
        path = tmp_path / "model.pt"
        path.write_bytes(b"a" * size)
        kept = journal.folder / journal.keep(path)
        newer = tmp_path / "newer"
        newer.write_bytes(b"b" * size)
        newer.replace(path)
        assert kept.read_bytes() == b"a" * size
        assert kept.name == "model.pt"
    with pytest.raises(FileNotFoundError):
        journal.keep(tmp_path / "absent")


def test_a_journal_on_a_file_system_that_syncs_no_folders(tmp_path, monkeypatch):
    refused = refuse_folder_sync(monkeypatch, errno.EINVAL)
    journal = Journal.create(tmp_path, HEAD)
    journal.append({"n": 1})
    journal.secure()
    journal.refuse({"n": 1}, "because")
    journal.remove()
    (left,) = with_refused(tmp_path)
    left.retry_refused()
    assert [record.get("n") for record, _ in left.records(0)] == [None, 1]
    assert len(refused) == 2, "of the head alone, and of the journal made again"


@pytest.mark.parametrize("refused", [False, True])
def test_a_journal_is_removed_as_windows_wants_it(tmp_path, monkeypatch, refused):
    """No folder moves and no file goes while a file in it is open, the lock too."""
    journal = Journal.create(tmp_path / "spool", HEAD)
    if refused:
        journal.refuse({"n": 1}, "because")
    replace, unlink = Path.replace, Path.unlink

    def unless_open(real, path, *arguments, **options):
        opened = [os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")]
        if any(Path(name).is_relative_to(path) for name in opened):
            raise PermissionError(13, "The process cannot access the file", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "replace", lambda *given: unless_open(replace, *given))
    monkeypatch.setattr(Path, "unlink", lambda *given, **options: unless_open(unlink, *given, **options))
    journal.remove()
    left = ["head.jsonl", "lock", "refused.jsonl"] if refused else []
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.is_file()) == [
        name for name in left if "." in name
    ]
    assert (tmp_path / "spool").exists() == refused


def test_the_spool_lies_beside_a_database_or_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGBUNDLES_SPOOL", raising=False)
    assert spool_folder("sqlite:////data/runs/mlflow.db") == Path("/data/runs/mlflow_spool")
    assert spool_folder("http://team:5000") == tmp_path / "mlflow_spool"
    monkeypatch.setenv("SEGBUNDLES_SPOOL", "elsewhere")
    assert spool_folder("http://team:5000") == tmp_path / "elsewhere"


# Processes.


def test_a_process_is_known_from_every_other():
    me = identity()
    assert alive(me)
    assert not gone(me)
    process = FORK.Process(target=signal.pause, daemon=True)
    process.start()
    other = {**me, "pid": process.pid, "started": liveness._started(process.pid)}
    assert alive(other)
    assert not gone(other)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie until it is joined
    assert gone(other)
    process.join()
    assert gone(other)
    assert not alive(other)
    assert gone({**me, "started": me["started"] - 100}), "another process has its number now"
    assert gone({**me, "boot": "before the reboot"})
    for key in ("host", "machine", "space"):
        elsewhere = {**me, "pid": 1 << 30, key: "elsewhere"}
        assert not gone(elsewhere), "nothing is known of another host or container"
        assert not alive(elsewhere)
    assert not gone({})


# Delivery.


def train_forever(uri, said, experiment="e", work="w", **more):
    """Says steps as fast as it can, and notes each in a pipe once it is said."""
    tracking = Tracking(experiment, uri=uri, flush_seconds=0, system_metrics=None)
    run_id = tracking.start(tags={"segbundles.work": work}, **more)
    os.write(said, f"{run_id}\n".encode())
    for step in range(10**9):
        tracking.metrics({"loss": step * 0.5}, step)
        if step % 50 == 0:
            tracking.json({"step": step}, "state.json")
        os.write(said, f"{step}\n".encode())
        time.sleep(0.001)


def killed(seconds, target, *arguments, **more):
    """Run `target` in a process that is killed after some seconds; what it noted."""
    reading, writing = os.pipe()
    process = FORK.Process(target=target, args=(arguments[0], writing, *arguments[1:]), kwargs=more)
    process.start()
    os.close(writing)
    with os.fdopen(reading) as stream:
        noted = [stream.readline().strip()]
        time.sleep(seconds)
        process.kill()
        process.join()
        noted += stream.read().split()
    return noted


def test_kill_at_any_moment_loses_nothing_and_doubles_nothing(uri, tmp_path, caplog):
    """Each start goes on with the run of the one before, as a training from its checkpoint does."""
    moments = random.Random(4)
    run_id, last = None, -1
    for _ in range(8):
        noted = killed(moments.uniform(0.0, 0.25), train_forever, uri, continue_run=run_id)
        assert run_id in (None, noted[0])
        run_id = noted[0]
        last = max([last, *map(int, noted[1:])])
    with Tracking("e", uri=uri, system_metrics=None) as tracking:
        assert tracking.start(continue_run=run_id) == run_id
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    there = steps(uri, run_id)
    assert len(there) == len(set(there)), "twice"
    assert set(range(last + 1)) <= set(there), "lost"
    assert not (tmp_path / "mlflow_spool").exists()
    assert "cannot" not in caplog.text


def test_a_killed_run_is_closed_by_the_next_start_of_its_work_and_no_other(uri, tmp_path, capsys):
    first = killed(0.1, train_forever, uri)
    (run,) = runs(uri)
    assert run.info.status == "RUNNING"
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "other work"})
    client = MlflowClient(uri)
    assert client.get_run(first[0]).info.status == "RUNNING"
    assert set(map(int, first[1:])) <= set(steps(uri, first[0])), "its values are delivered all the same"
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "w"})
    closed = client.get_run(first[0])
    assert closed.info.status == "KILLED"
    assert "the process ended" in closed.data.tags["error"]
    assert [r.info.status for r in runs(uri)] == ["FINISHED", "FINISHED", "KILLED"]
    killed(0.1, train_forever, uri)
    assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0, "so does sync, for every work"
    assert {r.info.status for r in runs(uri)} == {"FINISHED", "KILLED"}
    assert not (tmp_path / "mlflow_spool").exists()


def test_a_killed_run_whose_journal_lies_elsewhere_is_closed_by_its_tags(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBUNDLES_SPOOL", str(tmp_path / "elsewhere"))
    (first, *_) = killed(0.1, train_forever, uri)
    monkeypatch.delenv("SEGBUNDLES_SPOOL")
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "w"})
    assert MlflowClient(uri).get_run(first).info.status == "KILLED"


def test_a_living_run_is_left_alone_and_never_joined(uri, tmp_path, capsys, caplog):
    reading, writing = os.pipe()
    process = FORK.Process(target=train_forever, args=(uri, writing))
    process.start()
    with os.fdopen(reading) as stream:
        living = stream.readline().strip()
        assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
        assert "1 running" in capsys.readouterr().out
        with Tracking("e", uri=uri) as tracking:
            mine = tracking.start(continue_run=living, tags={"segbundles.work": "w"})
        assert mine != living
        assert f"MLflow run {living} cannot go on, a new one begins: process {process.pid}" in caplog.text
        assert MlflowClient(uri).get_run(living).info.status == "RUNNING"
        process.kill()
    process.join()


def test_a_journal_sent_twice_is_there_once(uri, tmp_path):
    """The note of what was delivered is lost, as when a process dies before it is written."""
    tracking = Tracking("e", uri=uri, flush_seconds=3600, system_metrics=None)
    run_id = tracking.start()
    for step in range(50):
        tracking.metrics({"loss": float(step), "nothing": float("nan"), "much": float("inf")}, step)
    tracking.tags({"a": "b"})
    tracking.inputs(
        [{"name": "d", "digest": "1", "source_type": "local", "source": "s", "context": "training"}]
    )
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "mlflow_spool", copy)
    tracking.finish("FINISHED")
    for _ in range(2):
        again = tmp_path / "again"
        shutil.copytree(copy, again)
        for journal in journals(again):
            (journal.folder / "delivered.json").unlink()
            journal.take()
            delivery = Delivery(journal, MlflowClient(uri))
            assert delivery.open() == run_id
            delivery.advance()
            journal.release()
        shutil.rmtree(again)
    (run,) = runs(uri)
    for name in ("loss", "nothing", "much"):
        assert steps(uri, run_id, name) == list(range(50))
    assert len(run.inputs.dataset_inputs) == 1


def test_what_mlflow_refuses_is_put_aside_and_holds_nothing_up(uri, tmp_path, caplog, capsys):
    with Tracking("e", uri=uri, flush_seconds=3600, system_metrics=None) as tracking:
        run_id = tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        tracking.metrics({"/absolute": 2.0, "rate": 0.5}, 1)  # a name that is no relative path
        tracking.params({"ok": "1", "../up": "2"})
        tracking.register("no:such/name", "model", 1.0)
        tracking.metrics({"loss": 0.5}, 2)
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert steps(uri, run_id) == [1, 2]
    assert run.data.metrics["rate"] == 0.5
    assert run.data.params == {"ok": "1"}
    assert caplog.text.count("MLflow does not take a part of run") == 1
    assert f"MLflow refused 3 records of run {run_id}" in caplog.text
    (refused,) = (tmp_path / "mlflow_spool").glob("*/refused.jsonl")
    kept = [json.loads(line) for line in refused.read_text().splitlines()]
    assert ["/absolute" in kept[0]["values"], kept[1]["key"], kept[2]["op"]] == [True, "../up", "register"]
    assert all(k["refused"] for k in kept)
    # A server of another kind may take them later; this one still does not.
    assert main(["sync", str(tmp_path / "mlflow_spool"), "--refused"]) == 1
    assert "MLflow refuses 3 records" in capsys.readouterr().out
    assert len(refused.read_text().splitlines()) == 3
    assert steps(uri, run_id) == [1, 2]


def test_a_run_deleted_while_it_is_written_is_told_once(uri, tmp_path, caplog):
    with Tracking("e", uri=uri, flush_seconds=0, system_metrics=None) as tracking:
        run_id = tracking.start()
        MlflowClient(uri).delete_run(run_id)
        for step in range(500):
            tracking.metrics({"loss": 1.0}, step)
        tracking.tags({"a": "b"})
    assert caplog.text.count("MLflow does not take a part of run") == 1
    assert not list((tmp_path / "mlflow_spool").glob("*/journal.jsonl"))


def test_kill_while_the_run_opens_leaves_no_run_open_and_none_twice(uri, tmp_path):
    moments, started = random.Random(1), time.monotonic()
    killed(0.0, train_forever, uri)
    opening = time.monotonic() - started
    for _ in range(6):
        process = FORK.Process(target=train_forever, args=(uri, os.open(os.devnull, os.O_WRONLY)))
        process.start()
        time.sleep(moments.uniform(0.0, opening))
        process.kill()
        process.join()
    begun = [journal.head() for journal in journals(tmp_path / "mlflow_spool")]
    assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
    keys = [run.data.tags["segbundles.key"] for run in runs(uri)]
    assert len(keys) == len(set(keys))
    assert {head["key"] for head in begun if head is not None} <= set(keys)
    assert {run.info.status for run in runs(uri)} == {"KILLED"}


def train_with_a_full_database(uri, answer):
    """A file-size limit stands for the full disk, so that SQLite itself fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Path(uri.removeprefix("sqlite:///")).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    more = {"flush_seconds": 0.1, "finish_seconds": PATIENCE, "system_metrics": None}
    with Tracking("e", uri=uri, **more) as tracking:
        answer.put(tracking.start())
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
        for step in range(3000):
            tracking.metrics({"loss": 1.0}, step)
        answer.put(tracking.flush())
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tracking.metrics({"loss": 1.0}, 3000)
    os._exit(0)


def test_a_database_on_a_full_disk_gets_everything_once_there_is_room(uri):
    answer = FORK.SimpleQueue()
    process = FORK.Process(target=train_with_a_full_database, args=(uri, answer))
    process.start()
    run_id = answer.get()
    assert answer.get() is False, "the limit held"
    process.join()
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert steps(uri, run_id) == list(range(3001))


def test_sync_without_anything_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEGBUNDLES_SPOOL", raising=False)
    assert main(["sync"]) == 0
    assert "nothing waits" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["sync", "no such folder"])
    assert caught.value.code == 2
    assert logging.getLogger("pipelines").level == logging.NOTSET
