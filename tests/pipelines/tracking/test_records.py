"""The records of a journal on disk have the keys of their types."""

import math
import shutil

import numpy as np

from pipelines.tracking.journal import journals
from pipelines.tracking.records import Delivered, Head, Record
from pipelines.tracking.run import Tracking


def test_records_have_the_keys_of_their_types(uri, tmp_path):
    spool = tmp_path / "mlflow_spool"
    (tmp_path / "model.pt").write_bytes(b"weights")
    with Tracking("e", "first", uri, flush_seconds=3600, system_metrics=None) as tracking:
        tracking.start(parent={"key": "k", "name": "folds", "spread": ["dice"]}, tags={"a": "b"})
        tracking.metrics({"loss": 0.5, "nothing": math.nan}, 1)
        tracking.params({"epochs": "4"})
        tracking.artifact(tmp_path / "model.pt", "model")
        tracking.image("case", np.zeros((3, 4, 3), np.uint8), 1)
        tracking.table("dice.json", {"case": ["a"], "dice": [0.5]})
        tracking.inputs(
            [{"name": "d", "digest": "1", "source_type": "local", "source": "s", "context": "training"}]
        )
        tracking.register("lungs", "model", 0.5)
        tracking.flush()
        (journal,) = journals(spool)
        delivered = journal.progress()
        shutil.copytree(spool, tmp_path / "copy")
    (copy,) = journals(tmp_path / "copy")
    head, *records = [record for record, _ in copy.records(0)]
    assert head.keys() == Head.__annotations__.keys()
    assert {record["op"] for record in records} >= {"metrics", "file", "image", "inputs", "register"}
    for record in records:
        assert record.keys() <= Record.__annotations__.keys(), record
    assert {"offset"} <= delivered.keys() <= Delivered.__annotations__.keys()
