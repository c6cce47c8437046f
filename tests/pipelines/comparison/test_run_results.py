"""Results of runs as they lie in MLflow: values, gaps, folds, pictures, and what is refused."""

import json

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipelines.comparison.run_finder import RunError, RunFinder
from pipelines.comparison.run_results import picture_of, read_results
from tests.pipelines.tracked_runs import add_run, log_text, new_store, picture

NAN = float("nan")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("runs"))


def read(client: MlflowClient, run_id: str):
    finder = RunFinder(client.tracking_uri)
    return read_results(finder, client.get_run(run_id))


def test_values_and_gaps(client: MlflowClient) -> None:
    values = {"dice": [[0.9, NAN], [0.8, 0.7], [0.0, 1.0]], "hd95_mm": [[3.5, NAN], [NAN, NAN], [1.0, 0.0]]}
    run_id = add_run(client, "one", values, params={"seed": "1"}, split="test")
    found = read(client, run_id)
    assert (found.name, found.experiment, found.kind, found.status) == (
        "one",
        "lungs",
        "evaluation",
        "FINISHED",
    )
    assert (found.split, found.classes, found.params["seed"]) == ("test", ["left_lung", "right_lung"], "1")
    assert found.cases == ["case_0", "case_1", "case_2"]
    assert np.array_equal(found.of("dice"), values["dice"], equal_nan=True)
    assert np.array_equal(found.of("hd95_mm"), values["hd95_mm"], equal_nan=True)
    with pytest.raises(RunError, match=r"'one' \(\w{8}\) has no nsd, only dice, hd95_mm: .* evaluate"):
        found.of("nsd")


def test_folds_are_put_together(client: MlflowClient) -> None:
    parent = add_run(client, "cv", None, kind="cross-validation")
    folds = [
        add_run(
            client,
            f"fold {fold}",
            {"dice": [[0.1 * fold, 0.5]] * 2},
            [f"case_{fold}_{i}" for i in range(2)],
            tags={"mlflow.parentRunId": parent},
            pictures=True,
            start_time=1000 + fold,
        )
        for fold in range(3)
    ]
    add_run(client, "failed fold", None, tags={"mlflow.parentRunId": parent}, status="FAILED")
    found = read(client, parent)
    assert found.cases == [f"case_{fold}_{i}" for fold in range(3) for i in range(2)]
    assert found.of("dice")[:, 0] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    finder = RunFinder(client.tracking_uri)
    assert picture_of(finder, found, "case_2_1") == picture(1, len("fold 2"))
    # The parent may hold the values of its folds itself; the pictures stay with the folds.
    pooled = {
        "format": 1,
        "classes": ["left_lung"],
        "cases": [{"case": "case_2_1", "dice": {"left_lung": 0.25}}],
    }
    log_text(client, parent, json.dumps(pooled), "results/cases.json")
    found = read(client, parent)
    assert (found.cases, found.of("dice").tolist(), found.sources["case_2_1"]) == (
        ["case_2_1"],
        [[0.25]],
        folds[2],
    )
    assert picture_of(finder, found, "case_2_1") is not None


def test_a_case_in_two_folds_is_refused(client: MlflowClient) -> None:
    parent = add_run(client, "twice", None)
    for fold in range(2):
        add_run(client, f"fold {fold}", {"dice": [[0.5, 0.5]]}, tags={"mlflow.parentRunId": parent})
    with pytest.raises(
        RunError, match=r"'twice' \(\w{8}\) has the case case_0 twice; compare the runs of its folds"
    ):
        read(client, parent)


def test_what_cannot_be_read_is_one_sentence(client: MlflowClient) -> None:
    bare = add_run(client, "bare", None)
    with pytest.raises(RunError, match=r"'bare' \(\w{8}\) of lungs has no results/cases\.json: .* again"):
        read(client, bare)
    for text, sentence in (
        ("{", r"'damaged' \(\w{8}\) is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "classes": [], "cases": [{}]}', "is damaged"),
        ('{"format": 1, "classes": ["a"], "cases": [{"case": "x", "dice": {"a": "much"}}]}', "is damaged"),
        ('{"format": 2}', "has the format 2, but this version reads only 1; update"),
    ):
        run_id = add_run(client, "damaged", None)
        log_text(client, run_id, text, "results/cases.json")
        with pytest.raises(RunError, match=sentence):
            read(client, run_id)


def test_a_run_without_pictures_has_none(client: MlflowClient) -> None:
    found = read(client, add_run(client, "plain", {"dice": [[0.5, 0.5]]}))
    finder = RunFinder(client.tracking_uri)
    assert picture_of(finder, found, "case_0") is None
    assert picture_of(finder, found, "case_9") is None
