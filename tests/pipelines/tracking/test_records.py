"""What a journal holds is what its types say."""

from pipelines.tracking.journal import Journal
from pipelines.tracking.records import Head, Record
from pipelines.tracking.run_files import RunFiles
from pipelines.tracking.run_head import first_record


def test_the_first_record_has_all_that_its_type_says():
    head = first_record("sqlite:///runs.db", "experiment", None, None, "key", None, None, {})
    assert list(head) == list(Head.__annotations__)


def test_records_of_files_have_keys_that_their_type_names(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"1234")
    head = first_record("sqlite:///runs.db", "experiment", None, None, "key", None, None, {})
    journal = Journal.create(tmp_path / "spool", head)
    try:
        files = RunFiles(journal)
        files.write("table.json", lambda path: path.write_text("{}"), table=True)
        files.keep(model / "weights", "weights")
        files.keep_whole(model, "model")
        _, table, kept, whole = [record for record, _ in journal.records(0)]
    finally:
        journal.release()
    for record in (table, kept, whole):
        assert set(record) <= set(Record.__annotations__)
        assert (journal.folder / record.pop("file")).is_file()
    assert table == {"op": "file", "name": "table.json", "table": True}
    assert kept == {"op": "file", "name": "weights"}
    assert whole == {"op": "file", "name": "model/weights", "whole": "model"}
