"""Which prediction counts as the same."""

from pipelines.data.inputs import find_inputs
from tests.pipelines.inference.predicted import changed, cohort, report, times
from tests.pipelines.tiny_model import prediction


def test_another_model_predicts_again(tmp_path):
    cohort(tmp_path, "a")
    out = tmp_path / "out"

    class Model:
        def __init__(self, *digests):
            self.card = {"sha256": digests[0], "members": list(digests)}

    for digests, again in ((("1",), True), (("1",), False), (("1", "2"), True), (("2", "1"), True)):
        before = times(out)
        prediction(find_inputs(tmp_path / "imagesTr"), out, model=Model(*digests)).run()
        assert bool(changed(before, times(out))) == again, digests
        assert report(out, "a")["models"] == list(digests)
