"""One page over all cases of a prediction."""

import pytest
from PIL import Image

from pipelines.data.inputs import find_inputs
from pipelines.inference.prediction import PredictionError
from tests.pipelines.inference.predicted import cohort
from tests.pipelines.tiny_model import prediction


def test_a_preview_and_a_page_over_all(tmp_path):
    cohort(tmp_path, ["a & b", "c#1"])
    (tmp_path / "imagesTr" / "bad.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    with pytest.raises(PredictionError):
        prediction(find_inputs(tmp_path / "imagesTr"), out, preview=True).run()
    page = (out / "index.html").read_text()
    assert 'src="c%231_preview.png"' in page
    assert "a &amp; b" in page
    assert "bad.nii.gz: not a NIfTI file" in page
    assert "confidence 1.00" in page
    assert "http" not in page
    for name in ("a & b", "c#1"):
        assert Image.open(out / f"{name}_preview.png").size[0] > 600
