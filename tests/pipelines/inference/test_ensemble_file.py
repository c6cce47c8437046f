"""The description of an ensemble is data, perhaps a stranger's."""

import json

import pytest

from pipelines.inference.ensemble_file import (
    EnsembleError,
    ensemble_file,
    read_ensemble,
    require_members,
    write_ensemble,
)

CARD = {
    "members": ["fold_0/models/model.pt", "fold_1/models/model.pt"],
    "sha256": ["a", "b"],
    "postprocessing": {"largest_component": ["liver"]},
    "dice": {"before": {"liver": 0.9}, "after": {"liver": 0.91}},
}


def test_a_folder_and_its_file_stand_for_the_ensemble(tmp_path):
    assert ensemble_file(tmp_path) is None
    file = write_ensemble(tmp_path, CARD)
    assert ensemble_file(tmp_path) == ensemble_file(file) == file
    members, postprocessing = read_ensemble(file)
    assert members == [tmp_path / member for member in CARD["members"]]
    assert postprocessing == CARD["postprocessing"]
    with pytest.raises(EnsembleError, match=r"fold_0/models/model.pt, which is not there"):
        require_members(members, file)


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": ["/etc/passwd"]},
        {"members": ["../../model.pt"]},
        {"members": [3]},
        {"members": None},
        {"postprocessing": {"_target_": "os.system"}},
        {"postprocessing": ["liver"]},
    ],
)
def test_what_is_none_is_refused_by_name(tmp_path, change):
    file = tmp_path / "ensemble.json"
    file.write_text(json.dumps({**CARD, **change}), encoding="utf-8")
    with pytest.raises(EnsembleError, match=r"ensemble\.json"):
        read_ensemble(file)
    file.write_text("no JSON", encoding="utf-8")
    with pytest.raises(EnsembleError, match=r"ensemble\.json"):
        read_ensemble(file)
