"""A person at MLflow's UI: the server, a headless Chromium, and what is clicked there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.waiting import PATIENCE, answers, wait_for


def chromium() -> tuple[str, str] | None:
    """Paths of Chromium (or Chrome) and its driver, where both are installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class MlflowUi:
    """`mlflow ui` on a free port of loopback; a context that yields its address.

    Args:
        uri: tracking URI whose runs are shown.
        folder: working directory, and where its log goes.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        words = ["-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
        # Fourteen processes of job workers would start, for nothing that is looked at here.
        variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = self.folder / "mlflow-ui.log"
        with log.open("w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *words, "--backend-store-uri", self.uri],
                cwd=self.folder,
                env={**os.environ, **variables},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: answers(address), self._process, said=lambda: log.read_text(encoding="utf-8"))
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return address

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            # It has nothing to save.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Browser:
    """A headless Chromium, a context.

    Args:
        width, height: of the window in pixels.
        dark: ask pages for their dark colours.
    """

    def __init__(self, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        found = chromium()
        if found is None:
            raise RuntimeError(
                "Chromium and chromedriver are not installed; on Debian: chromium chromium-driver"
            )
        options = Options()
        options.binary_location = found[0]
        # A container has neither the namespaces of Chromium's sandbox nor much shared memory.
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(word)
        # A test talks to nobody outside of this machine.
        for word in ("background-networking", "component-update", "sync", "quic"):
            options.add_argument(f"--disable-{word}")
        options.add_argument("--no-first-run")
        options.add_argument(f"--window-size={width},{height}")
        self.driver = webdriver.Chrome(options=options, service=Service(found[1]))
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)
        # The window's frame counts in --window-size; a picture should have the size asked for.
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            self._command("Emulation.setEmulatedMedia", {"features": features})

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.quit()

    def go(self, address: str) -> None:
        self.driver.get(address)

    def text(self) -> str:
        """All that is to be read on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def text_with(self, *words: str) -> str:
        """All that is to be read on the page, once all these words are; waits for them."""

        def read() -> str | None:
            text = self.text()
            return text if all(word in text for word in words) else None

        return self.wait(read, f"a page with {', '.join(words)}")

    def all(self, xpath: str) -> list[WebElement]:
        return self.driver.find_elements(By.XPATH, xpath)

    def find(self, xpath: str) -> WebElement:
        """The first visible element; waits for it."""
        return self.wait(lambda: next((e for e in self.all(xpath) if e.is_displayed()), None), xpath)

    def click(self, xpath: str) -> None:
        """Click, once nothing lies over the element any more."""

        def clicked() -> bool:
            element = next((e for e in self.all(xpath) if e.is_displayed()), None)
            if element is None:
                return False
            element.click()
            return True

        self.wait(clicked, xpath)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """What the condition returns, once that is true; pages draw themselves anew, so it is asked again."""

        def asked(driver: object) -> Any:
            try:
                return condition()
            except (StaleElementReferenceException, WebDriverException):
                return None

        return WebDriverWait(self.driver, PATIENCE, 0.2).until(asked, f"waited in vain for {what}")

    def settle(self) -> None:
        """Wait until the page looks the same for a second: charts are drawn after everything else."""

        def same() -> bool:
            shown = self.driver.get_screenshot_as_png()
            time.sleep(1.0)
            return shown == self.driver.get_screenshot_as_png()

        self.wait(same, "a page at rest")

    def picture(self, path: Path) -> None:
        """Save what the window shows."""
        self.driver.save_screenshot(str(path))

    def _command(self, name: str, arguments: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(name, arguments)


class MlflowPages:
    """MLflow's UI as a person uses it, from the list of experiments to a run.

    Args:
        browser: where.
        address: of the server.
    """

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address
        self._assistant_may_be_open = True

    def experiments(self) -> None:
        """The list of experiments, in the view for trainings, which the browser remembers from then on."""
        self.browser.go("about:blank")
        self.browser.go(f"{self.address}/#/experiments")
        self.browser.click("//span[normalize-space()='Model training']")
        self.browser.find("//*[normalize-space()='Experiments']")
        # The panel of MLflow's assistant opens by itself, the first time only.
        if self._assistant_may_be_open:
            self.browser.click("//button[@aria-label='Close']")
            self._assistant_may_be_open = False

    def open_experiment(self, name: str) -> None:
        """Its table of runs."""
        self.browser.click(
            f"//td//a[normalize-space()='{name}'] | //*[@role='cell']//a[normalize-space()='{name}']"
        )
        self.browser.find("//*[@role='row']//a")

    def show_column(self, metric: str) -> None:
        """Choose a metric under Columns."""
        self.browser.click("//button[contains(., 'Columns')]")
        box = self.browser.find("//input[contains(@placeholder, 'earch columns')]")
        box.send_keys(metric)
        self.browser.click(f"//span[contains(@class, 'tree-title')][normalize-space()='{metric}']")
        self.browser.find(f"//*[@role='columnheader'][contains(@col-id, '`{metric}`')]")
        self.browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)

    def cells(self, metric: str) -> dict[str, str]:
        """Run name to what its row of the table shows of a metric."""
        shown = {}
        for row in self.browser.all("//*[@role='row'][@row-id]//a/ancestor::*[@role='row']"):
            place = row.get_attribute("row-index")
            cell = f"//*[@role='row'][@row-index='{place}']//*[@role='gridcell'][contains(@col-id, '`{metric}`')]"
            shown[row.find_element(By.XPATH, ".//a").text] = self.browser.find(cell).text
        return shown

    def select(self, *runs: str) -> None:
        """Tick runs in the table."""
        for name in runs:
            row = self.browser.find(f"//*[@role='row'][.//a[normalize-space()='{name}']]")
            place = row.get_attribute("row-index")
            self.browser.click(f"//*[@row-index='{place}']//*[contains(@class, 'ag-selection-checkbox')]")

    def compare(self) -> None:
        """Press Compare and wait for the plots."""
        self.browser.click("//button[normalize-space()='Compare']")
        self.browser.find("//*[contains(text(), 'Comparing')]")
        self.browser.find("//*[contains(@class, 'js-plotly-plot')]")

    def charts(self, name: str) -> None:
        """The charts of the experiment's runs with this name, such as a metric or the case of a picture."""
        self.browser.click("//label[.//input[@value='CHART']]")
        self.search_charts(name)

    def search_charts(self, name: str) -> None:
        """Only charts with this name, on the chart view of an experiment or a run."""
        box = self.browser.find("//input[contains(@placeholder, 'Search metric charts')]")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(name)

    def show_images(self, step: int) -> None:
        """Let the first chart show the images of a step, without the run's parameters that hide them."""
        configure = "//*[@role='menuitem'][normalize-space()='Configure']"

        def chosen() -> bool:
            item = next((e for e in self.browser.all(configure) if e.is_displayed()), None)
            if item is None:
                # Charts that are still being drawn close the menu again.
                self.browser.click("//button[@data-testid='experiment-view-compare-runs-card-menu']")
                time.sleep(0.7)
                return False
            item.click()
            return True

        self.browser.settle()
        self.browser.wait(chosen, configure)
        self.browser.click("//*[@role='dialog']//button[@role='switch']")
        box = self.browser.find("//*[@role='dialog']//input[@type='number' or @role='spinbutton']")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(str(step), Keys.TAB)
        self.browser.click("//button[normalize-space()='Save changes']")

    def full_screen(self) -> None:
        """The first chart alone, as large as the window."""
        self.browser.click("//button[@data-component-id='fullscreen_button_chartcard']")
        self.browser.find("//*[@role='dialog']")

    def table(self) -> None:
        """The table of an experiment's runs, where its charts are shown."""
        self.browser.click("//label[.//input[@value='TABLE']]")

    def open_run(self, name: str) -> None:
        self.browser.click(f"//*[@role='row']//a[normalize-space()='{name}']")
        self.browser.find(f"//h1[normalize-space()='{name}'] | //h2[normalize-space()='{name}']")

    def tab(self, name: str) -> None:
        """A tab of a run: Overview, Model metrics, Artifacts."""
        self.browser.click(f"//button[@role='tab'][normalize-space()='{name}']")

    def pictures(self) -> list[WebElement]:
        """Pictures on the page that are loaded and larger than an icon; waits for the first."""
        script = "return arguments[0].complete && arguments[0].naturalWidth > 64"

        def loaded() -> list[WebElement]:
            return [e for e in self.browser.all("//img") if self.browser.driver.execute_script(script, e)]

        return self.browser.wait(loaded, "a picture")

    def open_artifact(self, *path: str) -> None:
        """Click through the folders to a file."""
        for name in path:
            self.browser.click(f"//li//*[normalize-space(text())='{name}']")
