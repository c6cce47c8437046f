"""Runs found by id, beginning of an id, name and filter, in a real database and through a real server."""

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.comparison.run_finder import MOST, RunError, RunFinder
from tests.pipelines.tracked_runs import add_run, new_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A database with a few runs: its URI, and name to id of the runs that have a name of their own."""
    client = new_store(tmp_path_factory.mktemp("runs"))
    uri = client.tracking_uri
    ids = {}
    for time, (name, seed, experiment) in enumerate(
        (
            ("first", "0", "lungs"),
            ("second", "1", "lungs"),
            ('it\'s "one"', "2", "lungs"),
            ("it's mine", "3", "lungs"),
            ("deadbeef", "4", "liver"),
            ("lr = 0.1", "1", "liver"),
        )
    ):
        ids[name] = add_run(
            client,
            name,
            None,
            experiment=experiment,
            params={"seed": seed},
            start_time=1_700_000_000_000 + time,
        )
    for time in range(2):
        add_run(client, "twin", None, experiment="lungs", start_time=1_700_000_100_000 + time)
    add_run(client, "kept", None, kind="comparison", params={"seed": "1"}, experiment="lungs")
    deleted = add_run(client, "gone", None, experiment="lungs")
    client.delete_run(deleted)
    ids["gone"] = deleted
    return uri, ids


def names(finder: RunFinder, *words: str) -> list[str]:
    return [run.info.run_name for run in finder.find(words)]


def test_ids_beginnings_names_and_filters(store: tuple[str, dict[str, str]]) -> None:
    uri, ids = store
    finder = RunFinder(uri)
    assert names(finder, ids["second"], "first") == ["second", "first"]
    assert names(finder, ids["first"][:12], ids["second"][:12]) == ["first", "second"]
    assert names(finder, "params.seed = '1'") == ["second", "lr = 0.1"]
    assert names(finder, "first", "params.seed = '1'", "second") == ["first", "second", "lr = 0.1"]
    assert names(finder, "tags.`segbundles.kind` = 'evaluation' and params.seed LIKE '%'")[:2] == [
        "first",
        "second",
    ]
    assert names(finder, f"attributes.run_id IN ('{ids['second']}', '{ids['first']}')") == ["first", "second"]


def test_a_name_may_look_like_an_id_or_a_filter(store: tuple[str, dict[str, str]]) -> None:
    uri, _ = store
    assert names(RunFinder(uri), "deadbeef", "lr = 0.1", "it's mine") == ["deadbeef", "lr = 0.1", "it's mine"]
    assert names(RunFinder(uri), "first", 'it\'s "one"') == ["first", 'it\'s "one"']
    with pytest.raises(RunError, match="neither the name of a run"):
        names(RunFinder(uri), "first", 'it_s "one"')
    with pytest.raises(RunError, match="neither the name of a run"):
        names(RunFinder(uri), "first", "i''s \"one\"")


def test_an_experiment_narrows_names_and_filters(store: tuple[str, dict[str, str]]) -> None:
    uri, _ = store
    assert names(RunFinder(uri, "lungs"), "params.seed = '1'", "first") == ["second", "first"]
    with pytest.raises(RunError, match=r"'deadbeef' is neither .* the experiment 'lungs'"):
        RunFinder(uri, "lungs").find(["deadbeef", "first"])
    with pytest.raises(RunError, match=r"no experiment 'lung' .* there are: Default, liver, lungs"):
        RunFinder(uri, "lung")


def test_what_cannot_be_found_is_one_sentence(store: tuple[str, dict[str, str]]) -> None:
    uri, ids = store
    finder = RunFinder(uri)
    for words, sentence in (
        (
            ["twin", "first"],
            r"several runs have the name 'twin': \w{12} of 2023-11-1\d .*, \w{12} of .*; give the id",
        ),
        (["third", "first"], "'third' is neither the name of a run nor the beginning of a run id"),
        (["0" * 32, "first"], f"there is no run {'0' * 32} in sqlite"),
        ([ids["gone"], "first"], r"the run 'gone' \(\w{8}\) was deleted"),
        (["params.seed = '9'", "first"], "no run in sqlite.* matches the filter params.seed = '9'"),
        (
            ["params.seed == 1 or 2", "first"],
            "neither the name of a run nor a valid MLflow filter",
        ),
        (["first"], r"'first' matches only the run 'first' \(\w{8}\); give two or more runs"),
        (["first", ids["first"]], "give two or more runs"),
        (["gone", "first"], "'gone' is neither"),
    ):
        with pytest.raises(RunError, match=sentence) as caught:
            finder.find(words)
        assert "\n" not in str(caught.value)


def test_the_beginning_of_several_ids_is_ambiguous(store: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    import sqlite3

    copy = shutil.copy(store[0].removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with sqlite3.connect(copy) as connection:
        for number, name in enumerate(("first", "second")):
            for table in ("runs", "tags", "params"):
                connection.execute(
                    f"update {table} set run_uuid = ? where run_uuid = ?",
                    (f"abcdef{number:026d}", store[1][name]),
                )
    connection.close()
    finder = RunFinder(f"sqlite:///{copy}")
    with pytest.raises(RunError, match=r"several runs have an id that begins with abcdef: abcdef0{6} of"):
        finder.find(["abcdef", "it's mine"])
    assert names(finder, "abcdef" + "0" * 26, "it's mine") == ["first", "it's mine"]


def test_too_many_matches_are_refused(store: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    copy = shutil.copy(store[0].removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{copy}")
    for number in range(MOST + 1):
        add_run(client, f"run {number}", None, experiment="many")
    with pytest.raises(
        RunError, match=f"more than {MOST} runs match the filter attributes.status = 'FINISHED'"
    ):
        RunFinder(f"sqlite:///{copy}").find(["attributes.status = 'FINISHED'"])
    with pytest.raises(RunError, match=f"{MOST + 1} runs match"):
        RunFinder(f"sqlite:///{copy}").find([f"run {number}" for number in range(MOST + 1)])


def test_no_database_is_made_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"there is no MLflow database at .*mlflow\.db; go to the folder"):
        RunFinder()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "other.db").write_text("no database at all")
    with pytest.raises(RunError, match="cannot be read"):
        RunFinder(f"sqlite:///{tmp_path / 'other.db'}")


def test_a_server_that_is_away_is_told_soon() -> None:
    with pytest.raises(
        RunError,
        match=r"MLflow at http://127\.0\.0\.1:9 cannot be read: Failed to establish a new connection",
    ):
        RunFinder("http://127.0.0.1:9")


def test_a_password_in_the_address_is_not_told() -> None:
    with pytest.raises(RunError, match=r"http://me:\*\*\*@127\.0\.0\.1:9") as error:
        RunFinder("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)
