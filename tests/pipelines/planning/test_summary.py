"""A dataset in few figures."""

import json

import numpy as np
import pytest

from pipelines.planning.fingerprint import fingerprint
from pipelines.planning.intensity_statistics import inside_and_outside
from pipelines.planning.records import QUANTILES
from pipelines.planning.summary import pooled, summarise
from tests.pipelines.planning.volumes import LABELS, write_dataset


def test_the_voxels_of_several_cases_together():
    random = np.random.default_rng(0)
    volumes = [
        random.normal(mean, 30, (size, 10, 10)).astype(np.float32) for mean, size in ((0, 10), (500, 30))
    ]
    records = [inside_and_outside(volume, np.ones(volume.shape, bool))[0] for volume in volumes]
    found, together = pooled(records), np.concatenate(volumes).astype(np.float64)
    assert found["voxels"] == together.size
    assert found["mean"] == pytest.approx(together.mean())
    assert found["deviation"] == pytest.approx(together.std())
    inner = slice(2, -2)
    # The 25th percentile lies in the gap between the two.
    near = np.abs(np.array(QUANTILES[inner]) - 25) > 1
    wanted = np.percentile(together, QUANTILES)[inner]
    assert np.abs(np.array(found["quantiles"])[inner] - wanted)[near].max() < 5
    assert pooled([]) == {"voxels": 0, "mean": 0.0, "deviation": 0.0, "quantiles": []}


def test_a_dataset_in_few_figures(tmp_path):
    data = write_dataset(tmp_path, labels={**LABELS, 4: "tumour"}, channel_names={"0": "CT"})
    found = fingerprint(data, tmp_path / "store", 0)
    summary = summarise(found)
    assert (summary["cases"], summary["digest"]) == (3, found["digest"])
    assert summary["orientations"] == {"RAS": 3}
    assert [each["median"] for each in summary["size"]] == [80.0, 60.0, 100.0]
    assert summary["anisotropy"] == {"low": 2.5, "median": 2.5, "high": 2.5}
    (channel,) = summary["channels"]
    assert (channel["name"], channel["hounsfield"], channel["whole_numbers"]) == ("CT", 1.0, 1.0)
    assert channel["inside"]["voxels"] == 3 * (2 * 216 + 4 * 4 * 8)
    kidney, tumour = summary["classes"]["1"], summary["classes"]["4"]
    assert (kidney["name"], kidney["cases"]) == ("kidney_left", 3)
    assert kidney["millilitres"]["median"] == pytest.approx(4.32)
    assert kidney["extent"][2] == {"low": 30.0, "median": 30.0, "high": 30.0}
    assert summary["classes"]["3"]["components"]["high"] == 2.0
    assert summary["classes"]["3"]["smallest_component"] == 32
    assert (tumour["cases"], tumour["millilitres"], tumour["extent"]) == (0, None, [])
    assert json.loads(json.dumps(summary)) == summary
