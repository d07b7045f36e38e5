"""The web page in a real browser; skips where Gradio, Selenium, Chromium or its driver are not installed."""

import functools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from benchmarks.page import CARDS, MISSING, MODULES, served, wait_for
from inference.restorers import pcsr_restorer
from models.build import build_pcsr
from models.checkpoint import load_model, save_weights
from models.setting import Setting
from tests.conftest import ROOT, TINY_PCSR, Cli, balance, config_for, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.image import to_tensor
from web.views import LOUPE

DROP = """
const transfer = new DataTransfer()
transfer.items.add(document.querySelector('#source').files[0])
for (const kind of ['dragenter', 'dragover', 'drop'])
  document.querySelector('#picture button').dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true}))
"""  # what a hand does with the mouse
TOUCHES = """
const map = document.querySelector('#overlay img'), area = map.getBoundingClientRect()
const touch = share => map.dispatchEvent(new MouseEvent('click', {
  bubbles: true, clientX: area.left + share * area.width, clientY: area.top + area.height / 2}))
touch(0.1)
setTimeout(() => touch(0.9), 20)
"""  # the left end of the map, and the right end before the loupe can have moved
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is started. save/ has a tiny model that finds half of a photo's pixels hard at k = 0."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "scratch").mkdir()
    torch.manual_seed(0)
    model = build_pcsr(TINY_PCSR).eval()
    balance(model, to_tensor(photo(24, 32)), 4)
    with torch.no_grad():
        for mlp in model.mlps()[:-1]:
            mlp.linears()[-1].weight.mul_(0.1)
    save_weights(folder / "save" / "tiny", model, config_for(TINY_PCSR))
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """The page as a user starts it, for all tests here; its address. It leaves nothing when it is ended."""
    # Gradio's own switch for tests: what a visitor has left is closed after a second, not after an hour
    env = {"TMPDIR": str(place / "scratch"), "PATH": "/usr/bin:/bin", "GRADIO_IS_E2E_TEST": "1"}
    env |= {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # which lead nowhere
    with served("--max_pixels", "20000", "--max_mb", "0.1", cwd=place, env=env) as address:
        yield address
    assert not any((place / "scratch").iterdir())


def find(browser: Any, css: str) -> list[Any]:
    return browser.find_elements("css selector", css)


def numbers(browser: Any) -> list[str]:
    return browser.execute_script(f"return [...document.querySelectorAll('{CARDS}')].map(card => card.textContent)")


def shown(browser: Any) -> list[str]:
    """Addresses of the five pictures, those that have been loaded."""
    script = (
        "return [...document.querySelectorAll('#compare img, #overlay img, #loupe img')]"
        ".filter(i => i.complete && i.naturalWidth)"
    )
    return browser.execute_script(script + ".map(i => i.src)")


def loupe(browser: Any) -> np.ndarray:
    """What the loupe shows of the result."""
    address = browser.execute_script("return [...document.querySelectorAll('#loupe img')].at(-1).src")
    return read_image(Path(address.split("file=")[1])).pixels


def told(browser: Any, text: str) -> None:
    """Waits until the page says so."""
    wait_for(lambda: text in browser.execute_script("return document.body.innerText"))


def send(browser: Any, path: Path) -> None:
    wait_for(lambda: find(browser, "#picture input[type=file]"))[0].send_keys(str(path))


def expected(folder: Path, picture: np.ndarray, k: float) -> np.ndarray:
    model, _ = load_model(folder / "save" / "tiny")
    restore = pcsr_restorer(model, [Setting("k", k, precision="auto")], torch.device("cpu"))  # type: ignore[arg-type]
    return restore(to_tensor(picture))[0].pixels


@needs_browser
def test_send_move_see_and_download(server: str, place: Path, browser: Any, tmp_path: Path) -> None:
    picture = photo(8, 150)  # at x4 longer than the loupe
    write_image(tmp_path / "photo.png", picture)
    browser.get(server)
    send(browser, tmp_path / "photo.png")
    wait_for(lambda: len(shown(browser)) == 5)
    first, pictures = numbers(browser), shown(browser)
    (knob,) = find(browser, "#k input[type=range]")
    knob.send_keys("\ue00f" * 2)  # page down: 2 steps of 0.3
    wait_for(lambda: numbers(browser)[0] != first[0])
    wait_for(lambda: "-0.6.webp" in "".join(shown(browser)) and len(shown(browser)) == 5)
    assert not set(pictures) & set(shown(browser))
    assert len(first) == 4 and first[1] != numbers(browser)[1]
    result = expected(place, picture, -0.6)
    browser.execute_script(TOUCHES)
    wait_for(lambda: np.array_equal(loupe(browser), result[:, -LOUPE[1] :]))  # the last place that was touched
    (tmp_path / "downloads").mkdir(exist_ok=True)
    find(browser, "#download")[0].click()
    file = wait_for(lambda: next((tmp_path / "downloads").glob("*.png"), None))
    assert file.name == "photo_x4_k=-0.6.png"
    np.testing.assert_array_equal(read_image(file).pixels, result)
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert any(address.startswith(server) for address in addresses)
    assert [a for a in addresses if a.startswith(("http", "ws")) and not a.startswith(server)] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    made = max((place / "scratch").rglob("bicubic.webp"), key=lambda path: path.stat().st_mtime)
    browser.get("about:blank")
    wait_for(lambda: not made.parent.parent.exists())  # what was made for a visitor goes when that one has left


@needs_browser
def test_problems_are_told_to_each_visitor(server: str, place: Path, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    write_image(tmp_path / "large.png", photo(40, 40))  # 25600 pixels at x4
    write_image(tmp_path / "heavy.bmp", photo(180, 200))
    write_image(tmp_path / "good.png", photo(30, 30))
    for name, message in {
        "bad.png": "bad.png: not a readable",
        "large.png": "large.png: x4 makes 160x160",
        "heavy.bmp": "aximum allowed size",
    }.items():
        browser.get(server)
        send(browser, tmp_path / name)
        told(browser, message)
        assert not numbers(browser) and not shown(browser)
        text = browser.execute_script("return document.body.innerText")
        assert "Traceback" not in text and str(place) not in text
    browser.get(server)
    send(browser, tmp_path / "good.png")
    one = wait_for(lambda: numbers(browser))
    find(browser, "#shrink input")[0].click()  # the 30x30 pixels are HR now
    wait_for(lambda: len(numbers(browser)) == 6 and numbers(browser)[5] != "...")
    measured, tab = numbers(browser), browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(server)
    wait_for(lambda: find(browser, "#picture input[type=file]"))
    assert not numbers(browser)
    send(browser, tmp_path / "good.png")
    assert wait_for(lambda: numbers(browser))[:2] == one[:2]
    browser.switch_to.window(tab)
    assert numbers(browser) == measured


@needs_browser
def test_rules(server: str, browser: Any) -> None:
    browser.get(server)
    wait_for(lambda: find(browser, "#sample"))[0].click()
    told(browser, "astronaut.png: 0.3 million pixels are more than the 0.005 allowed here")

    def sliders() -> tuple[bool, bool]:
        return bool(find(browser, "#k input")), bool(find(browser, "#budget input"))

    assert sliders() == (True, False)
    rules = {"By a share of the work": (False, True), "By the picture itself": (False, False)}
    for label, seen in {**rules, "By the slider": (True, False)}.items():
        (button,) = [b for b in find(browser, "#rule label") if b.text == label]
        button.click()
        wait_for(functools.partial(lambda expected: sliders() == expected, seen))
        if label == "By a share of the work":
            assert "all light is 0.80" in find(browser, "#budget")[0].text  # the model's own limit


@needs_browser
def test_on_a_phone(server: str, browser: Any, tmp_path: Path) -> None:
    """The result begins on the first screen, nothing is wider than it, and another format is downloaded."""
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    write_image(tmp_path / "photo.png", photo(24, 32))
    browser.get(server)
    send(browser, tmp_path / "photo.png")
    wait_for(lambda: len(shown(browser)) == 5)
    script = "return document.querySelector('#compare').getBoundingClientRect().top + window.scrollY"
    assert browser.execute_script(script) < 450
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    before = shown(browser)
    (jpeg,) = [label for label in find(browser, "#kind label") if label.text == "JPEG"]
    jpeg.click()
    wait_for(lambda: len(shown(browser)) == 5 and not set(before) & set(shown(browser)))
    find(browser, "#download")[0].click()
    file = wait_for(lambda: next((tmp_path / "downloads").glob("*.jpg"), None))
    assert read_image(file).pixels.shape == (96, 128, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_browser
def test_a_photograph_by_shipped_weights(browser: Any, tmp_path: Path) -> None:
    """Dropped on the page, made four times as wide and high by weights that ship, and downloaded."""
    (tmp_path / "save").mkdir()
    (tmp_path / "save/softgate").symlink_to(ROOT / "save/softgate-pcsr-phase1")
    picture = cv2.resize(skimage.data.coffee(), (256, 169), interpolation=cv2.INTER_CUBIC)
    write_image(tmp_path / "photo.jpg", picture)
    with served(cwd=tmp_path) as address:
        browser.get(address)
        wait_for(lambda: find(browser, "#picture input[type=file]"))
        browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<input type=file id=source>')")
        find(browser, "#source")[0].send_keys(str(tmp_path / "photo.jpg"))
        browser.execute_script(DROP)
        wait_for(lambda: len(shown(browser)) == 5, patience=300)
        find(browser, "#download")[0].click()
        file = wait_for(lambda: next((tmp_path / "downloads").glob("*.png"), None))
    result = read_image(file).pixels
    assert file.name == "photo_x4_k=0.png" and result.shape == (4 * 169, 4 * 256, 3)
    assert cv2.absdiff(cv2.resize(result, (256, 169), interpolation=cv2.INTER_AREA), picture).mean() < 4


@pytest.mark.skipif(MODULES["gradio"] is None, reason="not installed: gradio")
def test_programs_can_call_it(server: str, place: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file  # noqa: PLC0415 - optional
    from gradio_client.exceptions import AppError  # noqa: PLC0415

    picture = photo(24, 32)
    write_image(tmp_path / "photo.png", picture)
    client = Client(server, verbose=False, download_files=str(tmp_path / "got"))
    made, notes = client.predict(picture=handle_file(str(tmp_path / "photo.png")), k=-0.6, api_name="/upscale")
    np.testing.assert_array_equal(read_image(made).pixels, expected(place, picture, -0.6))
    assert [*client.view_api(return_format="dict")["named_endpoints"]] == ["/upscale"]
    given = {"picture": handle_file(str(tmp_path / "photo.png")), "api_name": "/upscale"}
    made, _ = client.predict(scale=2.5, k=None, kind="tif", **given)  # nothing is as good as k = 0
    assert Path(made).suffix == ".tif" and read_image(made).pixels.shape == (60, 80, 3)
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:-200])
    _, cut = client.predict(picture=handle_file(str(tmp_path / "cut.png")), api_name="/upscale")
    assert notes == "" and cut.startswith("damaged (")
    for wrong, message in (
        ({"model": "none"}, "a model of tiny"),
        ({"scale": 0}, "scale 0"),
        ({"scale": None}, "scale must be one number"),
        ({"scale": 80}, "max_pixels"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(**given, **wrong)


@pytest.mark.skipif(MODULES["gradio"] is None, reason="not installed: gradio")
def test_a_taken_port(tmp_path: Path) -> None:
    save_tiny(tmp_path / "save" / "tiny", TINY_PCSR)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(ROOT / "app.py"), "--port", port]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith(f"error: 127.0.0.1:{port} is taken")


@pytest.mark.parametrize(
    "args,message",
    [
        (["--port", "0"], "--port 0: must lie between"),
        (["--host", "::1"], "--host ::1: give a name"),
        (["--max_mb", "0"], "--max_mb 0: must be a number above 0"),
        (["--max_pixels", "nan"], "--max_pixels nan"),
        (["--max_pixels", "inf"], "--max_pixels inf"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_bad_options(args: list[str], message: str, cli: Cli) -> None:
    outcome = cli("app.py", *args)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1 and message in outcome.err


def test_without_gradio(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "save" / "tiny", TINY_PCSR)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "web.page", raising=False)
    outcome = cli("app.py", "--device", "cpu")
    assert outcome.code == 2 and outcome.err == "error: the page needs gradio: pip install -r requirements-app.txt\n"
    assert cli("app.py", "--help").code == 0
