"""The page under load, by its endpoint for programs: many visitors at once, and what it refuses."""

import ctypes
import functools
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks.page import MODULES, served, wait_for
from inference.restorers import pcsr_restorer
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import TINY_PCSR, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.image import to_tensor

pytestmark = [
    pytest.mark.skipif(MODULES["gradio"] is None, reason="not installed: gradio"),
    pytest.mark.slow,
]
VISITORS, MOVES, WAITING = 8, 7, 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server works."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "save" / "tiny", TINY_PCSR)
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """One for all tests, because a start takes longer than a test. A signal ends it, whichever thread gets that."""
    (place / "scratch").mkdir()
    env = {"TMPDIR": str(place / "scratch"), "PATH": "/usr/bin:/bin"}
    with served("--max_mb", "50", cwd=place, env=env) as address:
        yield address
        process = started()
        if sys.platform == "linux" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup does
            other = max({thread.id for thread in process.threads()} - {process.pid})
            assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGHUP) == 0
            wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)  # its exit code was not asked for
    assert not any((place / "scratch").iterdir())


def visitor(address: str, folder: Path) -> Any:
    from gradio_client import Client  # noqa: PLC0415 - optional

    return Client(address, verbose=False, download_files=str(folder))


def given(path: Path, k: float) -> dict[str, Any]:
    from gradio_client import handle_file  # noqa: PLC0415 - optional

    return {"picture": handle_file(str(path)), "k": k, "api_name": "/upscale"}


def visit(number: int, address: str, place: Path, folder: Path, moves: int) -> None:
    """Every answer is of this visitor's picture, at the k that was asked for."""
    picture, path = photo(24 + number, 32, number), folder / f"{number}.png"
    write_image(path, picture)
    model, _ = load_model(place / "save/tiny")
    assert isinstance(model, PCSR)
    client = visitor(address, folder / "back")
    for move in range(moves):
        k = round(-0.5 + 0.1 * move, 2)
        made, _ = client.predict(**given(path, k))
        restore = pcsr_restorer(model, [Setting("k", k, precision="auto")], torch.device("cpu"))
        expected = restore(to_tensor(picture))[0].pixels
        np.testing.assert_array_equal(read_image(made).pixels, expected)


def started() -> psutil.Process:
    """The server that was started last."""
    children = psutil.Process().children()
    servers = [child for child in children if any("app.py" in word for word in child.cmdline())]
    return max(servers, key=lambda child: child.create_time())


def memory() -> int:
    """Bytes that the server holds."""
    return int(started().memory_info().rss)


def test_eight_visitors_at_once(server: str, place: Path, tmp_path: Path) -> None:
    one = functools.partial(visit, address=server, place=place, folder=tmp_path)
    with ThreadPoolExecutor(VISITORS) as pool:
        list(pool.map(functools.partial(one, moves=2), range(VISITORS)))  # to warm up
        before = memory()
        list(pool.map(functools.partial(one, moves=MOVES), range(VISITORS)))
    wait_for(lambda: memory() < 1.2 * before)


def test_what_is_refused(server: str, place: Path) -> None:
    import httpx  # noqa: PLC0415 - Gradio brings it

    with httpx.Client(base_url=f"{server}/gradio_api", timeout=60) as client:
        for path in ("/etc/passwd", str(place / "save/tiny/config.yaml"), "../../etc/passwd"):
            assert client.get(f"/file={path}").status_code in (403, 404), path
        assert client.post("/upload", files={"files": ("large.png", bytes(60_000_000))}).status_code == 413
        for host, code in (("elsewhere.example", 400), ("localhost:80", 200)):
            assert client.get("/info", headers={"Host": host}).status_code == code


def test_the_queue_is_full(server: str, tmp_path: Path) -> None:
    """Others are told to come again. Asked by hand, as gradio_client would wait for its own requests."""
    import httpx  # noqa: PLC0415 - Gradio brings it

    write_image(tmp_path / "large.png", photo(600, 800))
    with httpx.Client(base_url=server, timeout=120) as client:
        endpoints = client.get("/config").json()["dependencies"]
        (number,) = [endpoint["id"] for endpoint in endpoints if endpoint["api_name"] == "upscale"]
        files = {"files": ("large.png", (tmp_path / "large.png").read_bytes())}
        picture = {"path": client.post("/gradio_api/upload", files=files).json()[0]}
        asked = {"data": [{**picture, "meta": {"_type": "gradio.FileData"}}, "tiny", 4, 0, "png"], "fn_index": number}
        answers = [
            client.post("/gradio_api/queue/join", json={**asked, "session_hash": f"visitor{place}"})
            for place in range(WAITING + 10)
        ]
    told = [answer.text for answer in answers if answer.status_code != 200]
    assert WAITING <= len(answers) - len(told) < WAITING + 10
    assert all("Queue is full" in text for text in told), told[:2]
