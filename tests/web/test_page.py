"""The page's controls and its endpoint for programs, without a browser."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks.page import MODULES
from inference.automatic import CLEAN, PHOTOS
from tests.conftest import TINY_PCSR, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from web.engines import load_engines
from web.session import AUTOMATIC, Service, Session

pytestmark = pytest.mark.skipif(MODULES["gradio"] is None, reason="not installed: gradio")


def service(folder: Path, *names: str) -> Service:
    for name in names:
        save_tiny(folder / "save" / name, TINY_PCSR)
    return Service(load_engines([folder / "save"], torch.device("cpu")), 50_000, folder)


def test_the_file_chooses_the_model(tmp_path: Path) -> None:
    """By default, where both weights are there; a note says which."""
    from web.page import Page  # noqa: PLC0415 - optional

    page = Page(service(tmp_path, CLEAN, PHOTOS, "other"))
    assert page.model.value == AUTOMATIC and page.model.choices[0] == ("Automatic", AUTOMATIC)
    assert [value for _, value in page.model.choices] == [AUTOMATIC, *sorted([CLEAN, PHOTOS, "other"])]
    write_image(tmp_path / "photo.jpg", photo(12, 16))
    for model, note in (
        (AUTOMATIC, f"JPEG of quality about 95: weights for photographs, {PHOTOS}"),
        (CLEAN, ""),
    ):
        path, notes = page.upscale(str(tmp_path / "photo.jpg"), model, 4, 0, "png")
        assert notes == note and read_image(path).pixels.shape == (48, 64, 3)
    calls = list(tmp_path.glob("call-*"))
    assert [path.name for call in calls for path in call.iterdir()] == ["photo_x4_k=0.png"] * 2  # and nothing else
    os.utime(calls[0], (0, 0))
    page.upscale(str(tmp_path / "photo.jpg"), CLEAN, 4, 0, "png")
    assert not calls[0].exists() and calls[1].exists() and len(list(tmp_path.glob("call-*"))) == 2
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("call-")} == {"save", "photo.jpg"}
    _, _, budget = page.adapt(False, "budget", AUTOMATIC, 4)
    assert budget.info == "1 is all heavy; all light is 0.80"


def test_one_of_the_weights_is_missing(tmp_path: Path) -> None:
    from web.page import Page  # noqa: PLC0415 - optional

    page = Page(service(tmp_path, "other", PHOTOS))
    assert page.model.value == "other" and page.model.choices == [("other", "other"), (PHOTOS, PHOTOS)]


def test_a_session_that_the_page_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first answer failed: nothing is left of it. One that was closed is not asked again."""
    from web.page import Page  # noqa: PLC0415 - optional

    page = Page(service(tmp_path, "other"))
    write_image(tmp_path / "photo.png", photo(12, 16))
    there = set(tmp_path.iterdir())
    asked = [page.shrink, page.model, page.scale, page.rule, page.k, page.budget, page.refinement, page.kind]
    given = {control: control.value for control in asked}
    given |= {page.picture: str(tmp_path / "photo.png"), page.reference: None, page.session: None}
    with monkeypatch.context() as patch:
        patch.setattr("web.session.whole_views", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(page.answer(given))
    assert set(tmp_path.iterdir()) == there and not page.service.encoded
    with monkeypatch.context() as patch:
        patch.setattr(Session, "save", lambda *_: memoryless())
        assert "more memory than there is" in next(page.answer(given))[page.numbers]
    first = next(page.answer(given))
    first[page.session].close()
    again = next(page.answer({**given, page.session: first[page.session]}))
    assert again[page.session] is not first[page.session] and again[page.download].value


def memoryless() -> None:
    raise MemoryError


def test_uploads_of_others_stay(tmp_path: Path) -> None:
    """Only old empty files are strays: an upload that has just begun is empty, too."""
    from web.page import Page  # noqa: PLC0415 - optional

    page = Page(service(tmp_path, "other"))
    for name in ("tmp-arriving", "tmp-new", "tmp-stray"):
        (tmp_path / name).write_bytes(b"image" if "arriving" in name else b"")
    for name in ("tmp-arriving", "tmp-stray"):
        os.utime(tmp_path / name, (0, 0))
    page.remove_strays()
    assert sorted(path.name for path in tmp_path.glob("tmp-*")) == ["tmp-arriving", "tmp-new"]
