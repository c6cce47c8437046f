"""Draw the pictures of docs/comparing.md: two trainings on a phantom, then MLflow's UI and our page in Chromium.

    python -m docs.make_screenshots

The trainings take some minutes; a second call takes them from the folder that it left them in.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.keys import Keys

from docs.small_pictures import save_small
from tests.conftest import make_dataset
from tests.e2e.browser import Browser, MlflowPages, MlflowUi
from tests.e2e.commands import REPOSITORY, SMALL, Workplace

RUNS = ("r2unet small", "upernet small")
# MLflow says where on the disk an artifact lies.
_PATH = "//*[starts-with(normalize-space(text()), 'Path:')]"
METRIC = "best_val_mean_dice"


def train(folder: Path, epochs: int) -> Workplace:
    """An r2unet and an upernet training in one experiment, and their comparison."""
    place = Workplace(folder)
    if (folder / "comparison.html").is_file():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    make_dataset(folder / "data", training=4, validation=6)
    size = {"epochs": epochs, "patches_per_epoch": 40, "spacing": "[12.0,12.0,12.0]"}
    given = SMALL | size | {"val_interval": epochs // 2}
    # Relative paths: a picture in the docs should not show whose machine drew it.
    near = Path(os.path.relpath(folder, REPOSITORY))
    places = {"dataset_dir": near / "data", "store_dir": near / "store"}
    for name in RUNS:
        place.root = near / name.split()[0]
        words = place.training(name.split()[0], **given, **places, experiment="lungs", run_name=name)
        place.run(words)
    words = ["-m", "pipelines", "compare", *RUNS, "--experiment", "lungs"]
    place.run([*words, "--html", str(folder / "comparison.html")])
    return place


def draw(place: Workplace, output: Path, epochs: int) -> None:
    """The pictures, in the order in which docs/comparing.md shows them."""
    with MlflowUi(place.uri, place.folder) as address, Browser(1500, 760) as browser:
        pages = MlflowPages(browser, address)
        pages.experiments()
        pages.open_experiment("lungs")
        pages.show_column(METRIC)
        pages.cells(METRIC)
        save(browser, output / "mlflow_runs.png", (0, 0, 1500, 420))
        pages.select(*RUNS)
        pages.compare()
        # Below the plots: what a person came for, and no folder among the parameters.
        heading = browser.find("//*[normalize-space(text())='Metrics']")
        browser.driver.execute_script("arguments[0].scrollIntoView()", heading)
        save(browser, output / "mlflow_compare.png", (0, 0, 1500, 420))
        browser.driver.back()
        pages.charts("validation_0")
        pages.show_images(epochs)
        pages.full_screen()
        pages.pictures()
        save(browser, output / "mlflow_images.png")
        browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        pages.experiments()
        pages.open_experiment("lungs")
        pages.table()
        pages.open_run(f"dice: {RUNS[0]} vs {RUNS[1]}")
        pages.tab("Artifacts")
        pages.open_artifact("comparison.html")
        browser.find("//iframe")
        browser.driver.execute_script("arguments[0].style.visibility = 'hidden'", browser.find(_PATH))
        save(browser, output / "mlflow_comparison.png")
    for dark, name in ((False, "comparison.png"), (True, "comparison_dark.png")):
        with Browser(1200, 620 if dark else 1000, dark=dark) as browser:
            browser.go((place.folder / "comparison.html").as_uri())
            if dark:
                browser.driver.execute_script("document.querySelectorAll('h2')[2].scrollIntoView()")
            save(browser, output / name)


def save(browser: Browser, path: Path, box: tuple[int, int, int, int] | None = None) -> None:
    """Save the window, or a part of it."""
    browser.settle()
    path.parent.mkdir(parents=True, exist_ok=True)
    browser.picture(path)
    with Image.open(path) as picture:
        save_small(picture.crop(box or (0, 0, *picture.size)), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "screenshots")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    draw(train(arguments.folder.absolute(), arguments.epochs), arguments.output, arguments.epochs)


if __name__ == "__main__":
    main()
