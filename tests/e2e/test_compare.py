"""`python -m pipelines compare` as a user types it."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from tests.e2e.commands import REPOSITORY
from tests.pipelines.tracked_runs import add_run, new_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Three evaluations of twelve cases; the second is better by 0.01 in each."""
    client = new_store(tmp_path_factory.mktemp("runs"))
    values = np.random.default_rng(0).uniform(0.7, 0.95, (12, 2))
    ids = [
        add_run(
            client, "before", {"dice": values, "hd95_mm": 10 * values}, params={"seed": "1", "epochs": "5"}
        ),
        add_run(client, "after", {"dice": values + 0.01}, params={"seed": "1", "epochs": "9"}),
        add_run(client, "other", {"dice": values - 0.02}, params={"seed": "2"}),
        add_run(client, "bare", None),
    ]
    return client.tracking_uri, ids


def test_the_command(store: tuple[str, list[str]], tmp_path: Path) -> None:
    uri, ids = store
    words = [sys.executable, "-m", "pipelines", "compare", "before", ids[1][:10], "--tracking-uri", uri]
    words += ["--csv", str(tmp_path / "out" / "values.csv"), "--html", str(tmp_path / "page.html")]
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "dice of 12 cases in 2 classes, higher is better" in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("left_lung ")]
    assert row.split()[1] == "12"
    assert row.split()[4:] == ["+0.0100", "+0.0100", "to", "+0.0100", "0.0010", "12/0"]
    assert "epochs: 5 | 9" in result.stdout
    assert "12 cases got better" in result.stdout
    with (tmp_path / "out" / "values.csv").open(newline="") as stream:
        assert [float(line["2 minus 1"]) for line in csv.DictReader(stream)] == pytest.approx([0.01] * 24)
    assert (tmp_path / "out" / "values_classes.csv").is_file()
    assert "+0.0100" in (tmp_path / "page.html").read_text()
    kept = result.stdout.split("logged to MLflow as run ")[1].split()[0]
    client = MlflowClient(uri)
    assert client.get_run(kept).data.tags["segbundles.compared"] == f"{ids[0]},{ids[1]}"


def test_filter_environment_and_no_log(
    store: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, _ = store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = len(MlflowClient(uri).search_runs(["1"]))
    assert main(["compare", "params.seed = '1'", "other", "--no-log", "--experiment", "lungs"]) == 0
    told = capsys.readouterr().out
    assert "2 after against 1 before" in told
    assert "3 other against 1 before" in told
    assert "kept in MLflow" not in told
    assert len(MlflowClient(uri).search_runs(["1"])) == before


def test_what_cannot_be_compared_ends_with_2_and_one_sentence(
    store: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, _ = store
    for words, sentence in (
        (["before", "nobody"], "error: 'nobody' is neither the name of a run"),
        (["before", "bare"], "error: the run 'bare' ("),
        (["before", "after", "--metric", "hd95_mm"], "has no hd95_mm, only dice"),
        (["before"], "give two or more runs"),
        (["before", "after", "--experiment", "liver"], "error: there is no experiment 'liver'"),
    ):
        assert main(["compare", *words, "--tracking-uri", uri, "--no-log"]) == 2
        output = capsys.readouterr()
        assert sentence in output.err
        assert output.err.count("\n") == 1
        assert output.out == ""
    for words, sentence in (
        (["--metric", "dicee"], "invalid choice: 'dicee'"),
        (["--csv", "table.txt"], "table.txt does not end in .csv"),
        (["--html", str(tmp_path)], "is a folder; give the path of a file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", "before", "after", "--tracking-uri", uri, *words])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["compare", "before", "after"]) == 2
    assert "there is no MLflow database at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
