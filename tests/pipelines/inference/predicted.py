"""What the tests of predictions read of their outputs."""

import csv
import json

from tests.pipelines.small import write_ct


def cohort(folder, names="abc"):
    return [write_ct(folder, name) for name in names]


def report(folder, case):
    return json.loads((folder / f"{case}.json").read_text(encoding="utf-8"))


def rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


def changed(before, after):
    return {name for name in after if before.get(name) != after[name]}
