"""A browser for the tests of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import chromium


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """One for all tests of a file, because a start takes seconds."""
    with chromium() as driver:
        yield driver


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Any]:
    """It shows nothing yet, and downloads into the folder of the test."""
    folder = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    first, *others = driver.window_handles
    for each in others:
        driver.switch_to.window(each)
        driver.close()
    driver.switch_to.window(first)
    driver.get("about:blank")
    for kind in ("performance", "browser"):
        driver.get_log(kind)  # and so empty it
