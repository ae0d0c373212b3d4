"""The page of real runs: what it says, what it must not say, and how it works in a real browser."""

import getpass
import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, TINY, summary, swept
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from fedmed.core.errors import FedmedError
from fedmed.report.entry import unit
from fedmed.report.page import page
from fedmed.runs.run import find
from fedmed.sweep.grid import Grid

SWEEP = (*TINY, "rounds=2", "dataset.patients=100", "name=tiny")
PRIVATE = ("privacy=dpsgd", "privacy.noise_multiplier=1", "client.steps=1")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
CSS = (ROOT / "fedmed" / "report" / "templates" / "report.css").read_text()


@dataclass
class Report:
    folder: Path
    file: Path
    text: str


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three runs that are done, one that failed over changed data, and one that nobody began."""
    folder = tmp_path_factory.mktemp("sweep")
    first = swept(folder, *SWEEP, "seed=0")
    swept(folder, *SWEEP, "seed=0", "strategy=fedprox")
    swept(folder, *SWEEP, "seed=2", *PRIVATE)
    failed = first.with_name("failed")
    shutil.copytree(first, failed)
    (failed / "summary.json").unlink()
    config = failed / ".hydra" / "config.yaml"
    config.write_text(re.sub(r"^seed: 0", "seed: 1", config.read_text(), flags=re.MULTILINE))
    with pytest.raises(FedmedError, match="was made with another data"):
        swept(folder, *SWEEP, "seed=1", "dataset.patients=130", into=failed)
    Grid.of([*SWEEP, "strategy=fedavg,krum", "seed=0", f"hydra.sweep.dir={folder / 'runs'}"]).save()
    text = page(find([folder]), [folder])
    file = folder / "report.html"
    file.write_text(text)
    return Report(folder, file, text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A real Chromium, whose log is kept."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
        yield started


def test_it_says_what_the_runs_say(report: Report) -> None:
    data = json.loads(report.text.split('id="data">')[1].split("</script>")[0])
    done = [run for run in data["runs"] if run["status"] == "finished"]
    assert len(done) == 3
    for run in done:
        kept = summary(report.folder / "runs" / run["id"])
        assert run["auroc"] == kept["test"]["macro_auroc"]
        assert run["epsilon"] == kept["privacy"]["epsilon"]
        for name in ("config", "data", "partition", "model"):
            assert kept[f"{name}_sha256"] in report.text
        for finding, curves in run["findings"].items():
            false, true = zip(*curves["roc"], strict=True)
            area = sum(
                (b - a) * (one + other) / 2
                for a, b, one, other in zip(false, false[1:], true, true[1:], strict=False)
            )
            assert area == pytest.approx(kept["test"]["auroc"][finding], abs=0.02)  # thinned
    assert "says nothing about patients" in report.text
    (private,) = [run for run in done if run["epsilon"]]
    assert list(data["partitions"][private["partition"]]) == ["withheld"]
    assert "whoever knows the seed can subtract it" in report.text


def test_it_names_no_patient_file_host_or_user(report: Report) -> None:
    tables = [pd.read_parquet(path) for path in report.folder.glob("runs/*/table.parquet")]
    names = set(pd.concat([table[["image", "patient"]].stack() for table in tables]))
    assert len(names) > 200
    told = {re.split("[:/]", str(name))[-1] for name in names}
    assert not told & set(re.findall(r"[\w-]+", report.text))
    for name in (str(report.folder), str(Path.home()), socket.gethostname()):
        assert name not in report.text
    assert f"/{getpass.getuser()}" not in report.text


def test_what_failed_and_what_nobody_began_is_seen(report: Report) -> None:
    lacking = report.text.split('id="lacking"')[1].split("</section>")[0]
    assert "strategy=krum" in lacking
    assert "<strong>missing</strong>" in lacking
    assert "was made with another data" in lacking
    assert "1 failed" in report.text


def test_the_unit_is_the_recorded_one_whatever_keys_are_called(tmp_path: Path) -> None:
    """It would stand at ε = 0 among those of a client's privacy."""
    own = (
        "~strategy.momentum",
        "+strategy.noise_multiplier=0.5",
        "strategy.server.server_momentum=${strategy.noise_multiplier}",
    )
    swept(tmp_path, *SWEEP, "rounds=1", "strategy=fedavgm", *own)
    (run,) = find([tmp_path])
    assert run.summary["privacy"]["unit"] is None
    assert unit(run) == "none"


def test_colours_are_told_apart_by_everyone() -> None:
    light, dark = CSS.split("@media (prefers-color-scheme: dark)")[:2]
    for scheme in (light, dark.split("@media")[0]):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for paper in ("bg", "surface"):
            for name in ("ink", "muted", "accent", "strong", *(f"c{i}" for i in range(8))):
                assert _contrast(colours[name], colours[paper]) >= 4.5, (name, paper)
        assert _contrast(colours["ink"], colours["note"]) >= 4.5


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_opens_without_error_and_asks_the_network_for_nothing(
    report: Report, browser: webdriver.Chrome
) -> None:
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    browser.get(report.file.as_uri())
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert 0 < _seconds(browser) < 2
    pictures = browser.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    assert len(pictures) >= 5  # learning, privacy, ROC, reliability, partition
    for picture in pictures:
        said = browser.execute_script(
            "return arguments[0].querySelector('desc').textContent", picture
        )
        drawn = browser.execute_script(
            "return arguments[0].outerHTML.match(/NaN|undefined|Infinity|\\[object/)", picture
        )
        assert said
        assert drawn is None


def _seconds(browser: webdriver.Chrome) -> float:
    """Return what the page has taken of a core, however busy the machine is with other things."""
    told = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(one["value"] for one in told if one["name"] == "TaskDuration"))


def test_filters_and_sorting_work_by_keyboard(report: Report, browser: webdriver.Chrome) -> None:
    browser.get(report.file.as_uri())
    strategy = browser.find_element(By.NAME, "strategy")
    choices = [option.text for option in strategy.find_elements(By.TAG_NAME, "option")]
    strategy.send_keys(Keys.DOWN * choices.index("fedprox"))  # letters must follow within a second
    assert _strategies(browser) == ["fedprox"]
    assert browser.find_element(By.ID, "shown").text == "1 of 4 runs"
    learning = browser.find_element(By.CSS_SELECTOR, "[data-chart=learning]").text
    assert "fedprox" in learning
    assert "fedavg" not in learning
    browser.find_element(By.ID, "all").send_keys(Keys.ENTER)
    assert len(_strategies(browser)) == 3
    head = browser.find_elements(By.CSS_SELECTOR, ".sortable thead th")[2]
    for order, sign in (("descending", -1), ("ascending", 1)):
        head.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
        assert head.get_attribute("aria-sort") == order
        scores = [float(row.text.split()[0]) for row in _cells(browser, 3)]
        assert scores == sorted(scores, key=lambda score: sign * score)
    browser.find_element(By.CSS_SELECTOR, "[data-table=cost] a").send_keys(Keys.ENTER)
    opened = WebDriverWait(browser, 60).until(  # hashchange comes some time after the key
        lambda page: page.find_elements(By.CSS_SELECTOR, "details.run[open]")
    )
    assert len(opened) == 1
    assert "partition:" in opened[0].text


def _cells(browser: webdriver.Chrome, column: int) -> list[WebElement]:
    rows = browser.find_elements(By.CSS_SELECTOR, f".sortable tbody tr > :nth-child({column})")
    return [row for row in rows if row.is_displayed()]


def _strategies(browser: webdriver.Chrome) -> list[str]:
    return [cell.text.splitlines()[0] for cell in _cells(browser, 2)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(report: Report, browser: webdriver.Chrome, scheme: str) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(report.file.as_uri())
    browser.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true"
    )
    assert browser.find_elements(By.CSS_SELECTOR, "figure details td")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
