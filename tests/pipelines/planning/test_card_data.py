"""The figures of a fingerprint that a model's card keeps."""

import json

import numpy as np
import pytest

from pipelines.inference.training_data import PERCENTS, checked_training_data
from pipelines.planning.card_data import training_data
from pipelines.planning.fingerprint import fingerprint
from tests.pipelines.planning.volumes import LABELS, body, save, write_dataset


def test_a_ct_in_few_figures(tmp_path):
    data = write_dataset(tmp_path, labels={**LABELS, 4: "tumour"}, channel_names={"0": "CT"})
    found = training_data(fingerprint(data, tmp_path / "store", 0), [0])
    assert checked_training_data(json.loads(json.dumps(found))) == found
    assert (found["cases"], found["orientations"]) == (3, {"RAS": 3})
    assert [each["median"] for each in found["spacing"]] == [2.0, 2.0, 5.0]
    assert [each["high"] for each in found["extent"]] == [80.0, 60.0, 100.0]
    assert found["volumes"]["kidney_left"]["median"] == pytest.approx(4.32)
    assert found["volumes"]["tumour"] is None
    (channel,) = found["channels"]
    assert (channel["name"], channel["hounsfield"]) == ("CT", True)
    assert channel["inside"]["50"] == 40.0
    wanted = [np.percentile(body(seed=seed)[0], PERCENTS) for seed in range(3)]
    for at, percent in enumerate(PERCENTS):
        low, high = channel["image"][f"{percent:g}"]["low"], channel["image"][f"{percent:g}"]["high"]
        assert low == pytest.approx(min(row[at] for row in wanted), abs=2)
        assert high == pytest.approx(max(row[at] for row in wanted), abs=2)


def test_intensities_without_a_unit_are_told_by_the_deviation_of_their_case(tmp_path):
    """The same image at ten times the brightness is no other image."""
    data = write_dataset(tmp_path)
    random = np.random.default_rng(0)
    image = random.gamma(2.0, 100.0, (40, 30, 20)).astype(np.float32)
    for index in range(3):
        save(tmp_path / "images" / f"c{index}.nii.gz", image * 10**index, np.diag([2.0, 2.0, 5.0, 1.0]))
    (channel,) = training_data(fingerprint(data, tmp_path / "store", 0), [])["channels"]
    assert channel["hounsfield"] is False
    for percent in PERCENTS:
        figures = channel["image"][f"{percent:g}"]
        assert figures["high"] - figures["low"] < 1e-3
        wanted = (np.percentile(image, percent) - image.mean()) / image.std()
        assert figures["median"] == pytest.approx(wanted, abs=0.05)
