"""What a person does in MLflow's UI after two trainings, in a real Chromium on a real `mlflow ui`."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.comparison.run_finder import RunFinder
from pipelines.comparison.run_results import read_results
from tests.e2e.commands import SMALL, Workplace

pytest.importorskip("selenium")
from tests.e2e.browser import Browser, MlflowPages, MlflowUi, chromium

RUNS = ("r2unet small", "upernet small")
METRIC = "best_val_mean_dice"
EXPERIMENT = "lungs"


@pytest.fixture(scope="module")
def trained(lungs_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """An r2unet and an upernet training in one experiment, and their comparison."""
    place = Workplace(tmp_path_factory.mktemp("ui"))
    for name in RUNS:
        bundle = name.split()[0]
        place.root = place.folder / bundle
        given = SMALL | {"dataset_dir": lungs_like, "experiment": EXPERIMENT, "run_name": name}
        place.run(place.training(bundle, **given))
    words = ["-m", "pipelines", "compare", *RUNS, "--experiment", EXPERIMENT]
    result = place.run([*words, "--html", str(place.folder / "comparison.html")])
    assert "dice of 2 cases in 2 classes" in result.stdout
    return place


@pytest.fixture(scope="module")
def pages(trained: Workplace) -> Iterator[MlflowPages]:
    if chromium() is None:
        pytest.skip("Chromium and chromedriver are not installed")
    with MlflowUi(trained.uri, trained.folder) as address, Browser(1600, 900) as browser:
        yield MlflowPages(browser, address)


def test_trainings_are_compared_by_what_their_best_validations_found(trained: Workplace) -> None:
    finder = RunFinder(trained.uri)
    first, second = [read_results(finder, run) for run in finder.find(RUNS)]
    assert first.cases == second.cases == ["validation_0", "validation_1"]
    for results in (first, second):
        told = trained.client.get_run(results.run_id).data.metrics[METRIC]
        assert results.of("dice").mean(0).mean() == pytest.approx(told, abs=1e-6)
    page = (trained.folder / "comparison.html").read_text()
    # Two cases, each with a picture of both runs.
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert "networks.R2UNet" in page
    assert "networks.UPerNet" in page


def test_both_runs_with_their_dice(pages: MlflowPages, trained: Workplace) -> None:
    pages.experiments()
    pages.open_experiment(EXPERIMENT)
    pages.show_column(METRIC)
    runs = {run.info.run_name: run.data.metrics.get(METRIC) for run in trained.runs(EXPERIMENT)}
    shown = pages.browser.wait(
        lambda: (cells := pages.cells(METRIC)).keys() >= set(RUNS) and cells, "the rows of both runs"
    )
    for name in RUNS:
        assert float(shown[name]) == pytest.approx(runs[name], abs=1e-6)


def test_select_both_and_compare(pages: MlflowPages, trained: Workplace) -> None:
    _at_the_table(pages)
    pages.select(*RUNS)
    pages.compare()
    words = ("Parallel Coordinates Plot", "networks.R2UNet", "networks.UPerNet")
    text = pages.browser.text_with("Comparing 2 Runs from 1 Experiment", *RUNS, METRIC, *words)
    for run in trained.runs(EXPERIMENT):
        if run.info.run_name in RUNS:
            assert run.info.run_id in text
            assert f"{run.data.metrics[METRIC]:.3g}"[:4] in text


def test_pictures_of_a_case_side_by_side(pages: MlflowPages) -> None:
    _at_the_table(pages)
    pages.charts("validation_0")
    pages.show_images(SMALL["epochs"])
    browser = pages.browser
    browser.wait(lambda: len(pages.pictures()) >= len(RUNS), "the pictures of both runs")


def test_runs_are_found_and_read_through_the_server(pages: MlflowPages, trained: Workplace) -> None:
    tables = []
    for uri in (trained.uri, pages.address):
        finder = RunFinder(uri)
        tables.append([read_results(finder, run).of("dice").tolist() for run in finder.find(RUNS)])
    assert tables[0] == tables[1]


def test_a_run_has_its_results_and_pictures(pages: MlflowPages) -> None:
    _at_the_table(pages)
    pages.open_run(RUNS[0])
    pages.browser.find(f"//*[normalize-space()='{METRIC}']")
    pages.tab("Artifacts")
    pages.open_artifact("results", "pictures", "validation_0.png")
    assert max(int(picture.get_attribute("naturalWidth")) for picture in pages.pictures()) > 300


def test_the_comparison_is_shown_where_the_runs_are(pages: MlflowPages) -> None:
    _at_the_table(pages)
    pages.open_run(f"dice: {RUNS[0]} vs {RUNS[1]}")
    pages.tab("Artifacts")
    pages.open_artifact("comparison.html")
    browser = pages.browser
    browser.driver.switch_to.frame(browser.find("//iframe"))
    try:
        browser.find("//h2[normalize-space()='Differences per class' or contains(., 'against')]")
        text = browser.text_with("left_lung")
    finally:
        browser.driver.switch_to.default_content()
    assert re.search(r"[+-]0\.\d{4}", text)


def test_our_page_in_light_and_dark(trained: Workplace) -> None:
    if chromium() is None:
        pytest.skip("Chromium and chromedriver are not installed")
    grounds = []
    for dark in (False, True):
        with Browser(1200, 900, dark=dark) as browser:
            browser.go((trained.folder / "comparison.html").as_uri())
            browser.find("//h1")
            script = "return getComputedStyle(document.body).backgroundColor"
            grounds.append(browser.driver.execute_script(script))
            # Wide tables scroll by themselves; the page does not.
            widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
            width, window = browser.driver.execute_script(widths)
            assert width <= window
            loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
            browser.wait(partial(browser.driver.execute_script, loaded), "all pictures")
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def _at_the_table(pages: MlflowPages) -> None:
    pages.experiments()
    pages.open_experiment(EXPERIMENT)
    pages.table()
