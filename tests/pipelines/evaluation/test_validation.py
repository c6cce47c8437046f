"""The validation of a network on all cases, shared out among the processes."""

import math

import torch

from pipelines.evaluation.validation import validate
from tests.pipelines.evaluators import evaluator
from tests.pipelines.small import write_ct


def test_a_validation_starts_its_list_anew_and_leaves_absent_classes_out(tmp_path):
    validator = evaluator([write_ct(tmp_path, "a", classes=(2,))])
    for _ in range(2):
        summary = validate(validator)
        assert len(validator.state.cases) == 1
    assert summary["mean_dice"] == 1.0
    assert math.isnan(validator.state.metrics["val_dice_lung"])


def test_the_results_of_all_processes_are_put_together(tmp_path):
    data = [write_ct(tmp_path, "b", classes=(2,)), write_ct(tmp_path, "a")]
    alone = evaluator(data)
    expected = validate(alone)
    validator = evaluator(data)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/r", rank=0, world_size=1)
    try:
        assert validate(validator) == expected
    finally:
        torch.distributed.destroy_process_group()
    assert [case["case"] for case in validator.state.cases] == ["a", "b"], (
        "in an order that ranks do not change"
    )
    assert torch.equal(validator.state.confusion, alone.state.confusion)
    assert int(alone.state.confusion.sum()) == 2 * 20 * 18 * 16
