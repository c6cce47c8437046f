"""Journals on disk: complete lines and stored files."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tracking.journal import Journal, journals, spool_folder, with_refused
from tests.file_systems import refuse_folder_sync

FORK = multiprocessing.get_context("fork")
HEAD = {"op": "run", "key": "0123456789abcdef"}


@settings(max_examples=60)
@given(
    records=st.lists(
        st.dictionaries(st.text(max_size=8), st.floats() | st.text() | st.none(), max_size=4), max_size=8
    ),
    cut=st.integers(0, 200),
)
def test_a_truncated_journal_has_the_records_before_the_cut(tmp_path_factory, records, cut):
    root = tmp_path_factory.mktemp("spool")
    journal = Journal.create(root, HEAD)
    ends = []
    for record in records:
        journal.append(record)
        ends.append(journal.size)
    complete = [record for record, _ in journal.records(0)]
    assert [json.dumps(r) for r in complete] == [json.dumps(r) for r in [HEAD, *records]]
    journal.release()
    os.truncate(journal.folder / "journal.jsonl", max(0, journal.size - cut))
    kept = [record for record, _ in journal.records(0)]
    assert len(kept) == sum(end <= journal.size for end in [len(json.dumps(HEAD)) + 1, *ends])
    assert [json.dumps(r) for r in kept] == [json.dumps(r) for r in complete[: len(kept)]]
    shutil.rmtree(root)


def test_reading_starts_at_any_record(tmp_path):
    journal = Journal.create(tmp_path, HEAD)
    for number in range(5):
        journal.append({"n": number})
    ends = [end for _, end in journal.records(0)]
    for index, end in enumerate(ends):
        assert [record.get("n") for record, _ in journal.records(end)] == list(range(index, 5))


def test_only_a_damaged_line_is_skipped(tmp_path, caplog):
    journal = Journal.create(tmp_path, HEAD)
    journal.append({"n": 1})
    with (journal.folder / "journal.jsonl").open("ab") as stream:
        stream.write(b"\0\0{\n")
    journal.append({"n": 2})
    assert [record.get("n") for record, _ in journal.records(0)] == [None, 1, 2]
    assert "damaged line" in caplog.text


def write_on_a_full_disk(root, answer):
    """A limit of the file size has the effect of a full disk: writing fails with an OSError in the middle of a line."""
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


def test_after_a_full_disk_all_lines_are_complete(tmp_path):
    answer = FORK.SimpleQueue()
    process = FORK.Process(target=write_on_a_full_disk, args=(tmp_path, answer))
    process.start()
    assert answer.get() > 60, "the limit has an effect"
    assert answer.get() == 0
    process.join()
    (journal,) = journals(tmp_path)
    assert [record.get("n") for record, _ in journal.records(0)] == [None, 0, 1, 2, 3]


def test_a_stored_file_does_not_change_with_the_original(tmp_path):
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


def test_a_journal_on_a_file_system_that_cannot_sync_folders(tmp_path, monkeypatch):
    refused = refuse_folder_sync(monkeypatch, errno.EINVAL)
    journal = Journal.create(tmp_path, HEAD)
    journal.append({"n": 1})
    journal.secure()
    journal.refuse({"n": 1}, "because")
    journal.remove()
    (left,) = with_refused(tmp_path)
    left.retry_refused()
    assert [record.get("n") for record, _ in left.records(0)] == [None, 1]
    assert len(refused) == 2, "once for the file with the head, and once for the restored journal"


@pytest.mark.parametrize("refused", [False, True])
def test_a_journal_is_removed_under_the_rules_of_windows(tmp_path, monkeypatch, refused):
    """Windows renames no folder with an open file and removes no open file, such as the lock."""
    journal = Journal.create(tmp_path / "spool", HEAD)
    if refused:
        journal.refuse({"n": 1}, "because")
    replace, unlink = Path.replace, Path.unlink

    def fail_if_open(real, path, *arguments, **options):
        open_files = [os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")]
        if any(Path(name).is_relative_to(path) for name in open_files):
            raise PermissionError(13, "The process cannot access the file", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "replace", lambda *given: fail_if_open(replace, *given))
    monkeypatch.setattr(Path, "unlink", lambda *given, **options: fail_if_open(unlink, *given, **options))
    journal.remove()
    left = ["head.jsonl", "lock", "refused.jsonl"] if refused else []
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.is_file()) == [
        name for name in left if "." in name
    ]
    assert (tmp_path / "spool").exists() == refused


def test_the_spool_is_beside_the_database_or_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGBUNDLES_SPOOL", raising=False)
    assert spool_folder("sqlite:////data/runs/mlflow.db") == Path("/data/runs/mlflow_spool")
    assert spool_folder("http://team:5000") == tmp_path / "mlflow_spool"
    monkeypatch.setenv("SEGBUNDLES_SPOOL", "elsewhere")
    assert spool_folder("http://team:5000") == tmp_path / "elsewhere"
