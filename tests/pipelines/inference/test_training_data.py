"""What a card says of the training cases: bounded, whoever wrote it."""

import copy
import json

import pytest

from pipelines.inference.card_values import CardError
from pipelines.inference.training_data import checked_training_data

QUANTILES = {"0.5": -1000.0, "5": -990.0, "50": -50.0, "95": 60.0, "99.5": 900.0}


def figures(low, median=None, high=None):
    return {"low": low, "median": low if median is None else median, "high": low if high is None else high}


CT = {
    "cases": 3,
    "spacing": [figures(0.7, 0.8, 1.0), figures(0.7, 0.8, 1.0), figures(1.0, 2.0, 3.0)],
    "extent": [figures(300.0, 350.0, 400.0), figures(300.0, 350.0, 400.0), figures(200.0, 250.0, 400.0)],
    "orientations": {"LPS": 2, "RAS": 1},
    "channels": [
        {
            "name": "CT",
            "hounsfield": True,
            "inside": QUANTILES,
            "outside": {},
            "image": {name: figures(value - 20, value, value + 20) for name, value in QUANTILES.items()},
        }
    ],
    "volumes": {"lung": figures(900.0, 1000.0, 4000.0), "lesion": None},
}


def test_a_record_comes_back_without_what_nobody_knows():
    found = copy.deepcopy(CT)
    found["unknown"] = found["channels"][0]["image"]["7"] = "x" * 10**6
    assert checked_training_data(json.loads(json.dumps(found))) == CT


CHANGES = {
    "no object": (lambda _: [1], "training_data is [1], not a JSON object"),
    "no case": (lambda d: d | {"cases": 0}, "training_data#cases is 0; it must be a number from 1"),
    "no axes": (lambda d: d | {"spacing": None}, "training_data#spacing is None, no list of 1 to 3 items"),
    "many axes": (
        lambda d: d | {"extent": [figures(1)] * 900},
        "training_data#extent is a list of 900 items",
    ),
    "other axes": (lambda d: d | {"extent": [figures(1)] * 2}, "the same two or three axes"),
    "falling": (
        lambda d: d | {"spacing": [figures(2.0, 1.0, 3.0)] * 3},
        "training_data#spacing runs from 2 over 1 to 3, which does not rise",
    ),
    "NaN": (lambda d: d | {"spacing": [figures(float("nan"))] * 3}, "training_data#spacing is nan"),
    "a negative spacing": (lambda d: d | {"spacing": [figures(-1.0)] * 3}, "training_data#spacing is -1.0"),
    "a huge number": (
        lambda d: d | {"volumes": {"lung": figures(10**400)}},
        "training_data#volumes is a number of",
    ),
    "a name that a terminal obeys": (
        lambda d: d | {"orientations": {"\x1b[2": 1}},
        "holds control characters",
    ),
    "many orientations": (
        lambda d: d | {"orientations": {f"{i:03}": 1 for i in range(99)}},
        "training_data#orientations has 99 entries; 48 are the most",
    ),
    "no channel": (
        lambda d: d | {"channels": []},
        "training_data#channels is [], no list of 1 to 1024 items",
    ),
    "no flag": (
        lambda d: d | {"channels": [d["channels"][0] | {"hounsfield": 1}]},
        "training_data#channels#hounsfield is 1, neither true nor false",
    ),
    "a quantile is missing": (
        lambda d: d | {"channels": [d["channels"][0] | {"inside": {"5": 1.0}}]},
        "training_data#channels#inside#0.5 is None",
    ),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_is_beyond_the_bounds_is_named(name):
    change, message = CHANGES[name]
    with pytest.raises(CardError) as caught:
        checked_training_data(change(copy.deepcopy(CT)))
    assert message in str(caught.value)
