"""Pictures of the worst cases of an evaluation."""

import json

import numpy as np

from tests.pipelines.evaluation.evaluated import evaluation
from tests.pipelines.tiny_model import write_model


def test_only_the_worst_cases_are_drawn(data, uri, tmp_path):
    model = write_model(tmp_path / "models")
    out = tmp_path / "out"
    (out / "pictures").mkdir(parents=True)
    first = data.validation[0].id
    (out / "pictures" / f"{first}.png").write_bytes(b"of an earlier evaluation")
    evaluation(data, model, out, track=False, pictures=2).run()
    cases = json.loads((out / "metrics.json").read_text())["cases"]
    means = {c["case"]: np.mean([v for v in c["dice"].values() if v is not None]) for c in cases}
    best = max(means, key=means.get)
    assert best == first
    assert {path.stem for path in (out / "pictures").iterdir()} == set(means) - {first}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2
    evaluation(data, model, out, track=False, pictures=0).run()
    assert not list((out / "pictures").iterdir())
    assert "data:image" not in (out / "report.html").read_text()
