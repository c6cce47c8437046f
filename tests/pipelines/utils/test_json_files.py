"""JSON that others wrote."""

import json

from pipelines.utils.json_files import read_json


def test_names_of_bytes_that_are_no_text_are_no_halves(tmp_path):
    """As Python writes file names of other times; they can be opened."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"image": "\udce9.nii.gz"}))
    assert read_json(path) == {"image": "\udce9.nii.gz"}
