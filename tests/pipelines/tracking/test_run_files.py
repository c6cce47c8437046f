"""Storing the files of a run in its journal."""

import json
import math

import numpy as np
import pytest

from pipelines.tracking.journal import Journal
from pipelines.tracking.run_files import RunFiles, table_json

HEAD = {"op": "run", "key": "0123456789abcdef"}


@pytest.fixture
def journal(tmp_path):
    return Journal.create(tmp_path / "spool", HEAD)


def records_of(journal):
    return [record for record, _ in journal.records(0)][1:]


def test_files_are_stored_under_their_artifact_paths(journal, tmp_path):
    files = RunFiles(journal)
    (tmp_path / "model.pt").write_bytes(b"weights")
    files.keep(tmp_path / "model.pt", "model/model.pt")
    files.write("model/card.json", lambda path: path.write_text("{}"))
    (tmp_path / "model.pt").write_bytes(b"newer")
    names = ["model/model.pt", "model/card.json"]
    assert [(record["op"], record["name"]) for record in records_of(journal)] == [
        ("file", name) for name in names
    ]
    contents = [(journal.folder / record["file"]).read_bytes() for record in records_of(journal)]
    assert contents == [b"weights", b"{}"]
    assert files.below("model") == {"model.pt": 7, "card.json": 2}
    with pytest.raises(FileNotFoundError):
        files.keep(tmp_path / "absent", "absent")


def test_a_folder_is_stored_with_the_largest_file_first(journal, tmp_path):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.json").write_bytes(b"12")
    (folder / "inner" / "b.pt").write_bytes(b"123456")
    files = RunFiles(journal)
    files.keep_whole(folder, "m")
    assert [(record["name"], record["whole"]) for record in records_of(journal)] == [
        ("m/inner/b.pt", "m"),
        ("m/a.json", "m"),
    ]
    assert files.below("m") == {"inner/b.pt": 6, "a.json": 2}


def test_files_that_cannot_be_written_are_recorded_as_lost(journal, caplog):
    files = RunFiles(journal)

    def write(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    files.write("results/table.json", write)
    files.write("results/other.json", write)
    assert records_of(journal) == []
    assert files.below("results") == {"table.json": None, "other.json": None}
    assert [record["name"] for record in journal.missing()] == ["results/table.json", "results/other.json"]
    assert caplog.text.count("cannot be saved for the run") == 1
    assert not list(journal.folder.rglob("*table.json")), "no incomplete file is left"


def test_tables_have_numbers_for_numpy_numbers_and_null_for_nan():
    table = json.loads(
        table_json(
            "cases.json", {"case": ["a", "b"], "dice": [np.float32(0.5), math.nan], "n": [np.int64(1), 2]}
        )
    )
    assert table == {"columns": ["case", "dice", "n"], "data": [["a", 0.5, 1], ["b", None, 2]]}
