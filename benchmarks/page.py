"""A picture of the whole web page with its sample: python benchmarks/page.py --out app.png

It needs requirements-app.txt, Chromium and chromedriver.
"""

import argparse
import base64
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

from benchmarks.tables import ROOT
from utils.cli import Parser, run
from utils.errors import InputError
from utils.files import output_file, write_atomic

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MODULES = {name: importlib.util.find_spec(name) for name in ("gradio", "selenium")}
MISSING = [name for name, found in {**PROGRAMS, **MODULES}.items() if found is None]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 90.0  # seconds to wait; on an idle machine one or two are enough
CARDS = "#numbers .card b"
READY = f"""
const cards = [...document.querySelectorAll('{CARDS}')].map(card => card.textContent)
const pictures = [...document.querySelectorAll('#compare img, #overlay img, #loupe img')]
return cards.length == 6 && !cards.includes('...') && pictures.length == 5
  && pictures.every(picture => picture.complete && picture.naturalWidth)
"""


@contextmanager
def served(*options: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the page as a user does, and give its address. Raises InputError if it does not start or end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *options]
    with tempfile.TemporaryFile("w+") as log:

        def printed() -> str:
            log.seek(0)
            return log.read()

        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
        try:
            wait_for(lambda: "open http" in printed() or process.poll() is not None)
            if process.poll() is not None:
                raise InputError(f"app.py ended with {process.returncode}: {printed()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
        if code != 128 + signal.SIGINT or "Traceback" in printed():
            raise InputError(f"app.py ended with {code}: {printed()}")


@contextmanager
def chromium(width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """A driver of a headless Chromium with its own profile."""
    from selenium import webdriver  # noqa: PLC0415 - optional
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(PROGRAMS["chromedriver"]))
        try:
            yield driver
        finally:
            driver.quit()


def wait_for(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until a condition is true, and return its value. Raises InputError if it stays false."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise InputError(f"the page did not answer in {patience:g} seconds")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=output_file(".png"), required=True, help="PNG to write")
    parser.add_argument("--width", type=int, default=1280, help="width in pixels (default: 1280; at least 500)")
    parser.add_argument("--height", type=int, default=1480, help="height of the window in pixels (default: 1480)")
    args = parser.parse_args()
    if MISSING:
        raise InputError(f"not installed: {', '.join(MISSING)}; requirements-app.txt has the Python packages")
    with served() as address, chromium(width=args.width, height=args.height) as browser:
        browser.get(address)
        wait_for(lambda: browser.find_elements("css selector", "#sample"))[0].click()
        wait_for(lambda: browser.execute_script(READY))
        whole = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        write_atomic(args.out, base64.b64decode(whole["data"]))
    print(f"written to {args.out}")


if __name__ == "__main__":
    run(main)
