"""What visitors of the web page get, without the web: pictures, numbers, limits, memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.automatic import CLEAN, PHOTOS
from inference.restorers import pcsr_restorer
from models.checkpoint import load_model
from models.decide import least_budget
from models.fast.engine import Engine
from models.setting import Setting
from tests.conftest import TINY_PCSR, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import to_pixels, to_tensor
from utils.resize import imresize
from web.engines import load_engines
from web.session import AUTOMATIC, Answer, Ask, Service, Session
from web.views import Place

CPU = torch.device("cpu")
SETTING = Setting("k", 0.1)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    save_tiny(tmp_path / "save" / "tiny", TINY_PCSR)
    write_image(tmp_path / "photo.png", photo(20, 28))
    (tmp_path / "root").mkdir()
    return Service(load_engines([tmp_path / "save"], CPU), 50_000, tmp_path / "root")


def visitor(service: Service, name: str = "photo.png", **changes: object) -> Session:
    ask = Ask(service.root.parent / name, None, shrink=False, model="tiny", scale=4.0)
    return Session(ask._replace(**changes), service)  # type: ignore[arg-type]


def last(session: Session, setting: Setting = SETTING) -> Answer:
    return list(session.answer(replace(setting, scale=session.ask.scale)))[-1]


def values(answer: Answer) -> dict[str, str]:
    return {label: value for label, value, _ in answer.numbers}


def remarks(answer: Answer) -> dict[str, str]:
    return {label: remark for label, _, remark in answer.numbers}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
@pytest.mark.parametrize("step", ["features", "upsample"])
def test_refused_memory(step: str, error: Exception, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(Engine, step, refused)
    with pytest.raises(InputError, match="more memory than there is"):
        last(visitor(service))


def test_a_session_that_is_closed_while_it_computes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    session, features = visitor(service), Engine.features

    def closing(self: Engine, *args: Any) -> Any:
        session.close()
        return features(self, *args)

    monkeypatch.setattr(Engine, "features", closing)
    with pytest.raises(InputError, match="no longer here"):
        last(session)
    assert not service.encoded and not session.folder.exists()


def test_a_result_too_wide_for_its_file(service: Service) -> None:
    write_image(service.root.parent / "wide.png", photo(1, 5000))
    service.pixels = 10**6
    session = visitor(service, "wide.png")
    with pytest.raises(InputError, match=r"20000x4 pixels, but a side of a \.webp has at most 16383; use \.png$"):
        next(session.answer(SETTING, ".webp"))
    assert service.encoded[session].last is None  # nothing was restored for it
    assert next(session.answer(SETTING, ".png")).download.exists()


@pytest.mark.parametrize("setting", [SETTING, Setting("adaptive")], ids=str)
@pytest.mark.parametrize("refinement", [True, False])
@pytest.mark.parametrize("memory", [2 << 30, 1])
def test_the_pixels_are_the_restorers(setting: Setting, refinement: bool, memory: int, service: Service) -> None:
    service.memory = memory
    setting = replace(setting, refinement=refinement)
    answer = last(visitor(service), setting)
    model, _ = load_model(service.root.parent / "save" / "tiny")
    (expected,) = pcsr_restorer(model, [setting], CPU)(to_tensor(photo(20, 28)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(answer.download).pixels, expected.pixels)
    np.testing.assert_array_equal(read_image(answer.loupe[1]).pixels, expected.pixels)  # it fits into the window
    for path in (answer.before, answer.after, answer.overlay, answer.loupe[0]):
        assert read_image(path).pixels.shape == (80, 112, 3)
    assert (
        values(answer)["Result"] == "112x80"
        and values(answer)["Difficult pixels"] == f"{100 * expected.heavy_share:.1f} %"
    )
    assert ("too large" in remarks(answer)["Seconds"]) == (memory == 1)
    assert "PSNR, dB" not in values(answer)


@pytest.mark.parametrize("step", ["features", "upsample"])
def test_smaller_tiles_when_memory_does_not_suffice(
    step: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, original, failures = read_image(last(visitor(service)).download).pixels, getattr(Engine, step), [True]

    def in_little_memory(self: Engine, *args: Any) -> Any:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError
        return original(self, *args)

    monkeypatch.setattr(Engine, step, in_little_memory)
    session = visitor(service)
    np.testing.assert_array_equal(read_image(last(session).download).pixels, expected)
    assert service.encoded[session].encoding.plan.quarterings == 1


def test_the_knob_moves_pictures_and_numbers(service: Service) -> None:
    session = visitor(service)
    answers = [last(session, Setting("k", k)) for k in (-99, 99)]
    picture = service.encoded[session]
    assert [values(answer)["Difficult pixels"] for answer in answers] == ["100.0 %", "0.0 %"]
    assert values(answers[0])["Work"] == "100.0 %"
    heavy, light = (read_image(answer.download).pixels for answer in answers)
    assert (heavy != light).any()
    least = least_budget(service.engines["tiny"].flops, 4)
    answers = [last(session, Setting("budget", share)) for share in (0.01, least)]
    assert values(answers[0])["Difficult pixels"] == values(answers[1])["Difficult pixels"] == "0.0 %"
    assert service.encoded == {session: picture}  # not encoded again


def test_shrunk_first_or_against_a_reference(service: Service) -> None:
    write_image(service.root.parent / "hr.png", photo(83, 64))
    service.pixels *= 4  # to compare takes more memory
    first, *_, answer = visitor(service, "hr.png", shrink=True).answer(SETTING)
    assert values(first)["SSIM"] == "..." and values(first)["PSNR, dB"] == values(answer)["PSNR, dB"]
    assert float(values(answer)["SSIM"]) > 0.3
    assert read_image(answer.download).pixels.shape == (80, 64, 3)
    reference = service.root.parent / "reference.png"
    write_image(reference, photo(82, 113))
    answer = last(visitor(service, reference=reference))
    assert float(values(answer)["PSNR, dB"]) > 15
    whole = reference.read_bytes()
    reference.write_bytes(whole[: len(whole) // 2])
    assert any(note.startswith("reference.png: damaged") for note in last(visitor(service, reference=reference)).notes)
    reference.write_bytes(whole)
    with pytest.raises(InputError, match=r"reference.png: HR is 113x82 .* 140x100; check .*scale"):
        last(visitor(service, reference=reference, scale=5.0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["RGBA", "16", "gray"])
def test_the_download_is_what_the_file_was(kind: str, suffix: str, service: Service) -> None:
    path, picture = service.root.parent / "in.png", photo(11, 14)
    if kind == "16":
        write_image(path, picture.astype(np.uint16) * 257)
    else:
        alpha = np.full((11, 14), 200, np.uint8) if kind == "RGBA" else None
        write_image(path, picture if kind == "RGBA" else picture[:, :, 0], alpha)
    (answer,) = visitor(service, "in.png", scale=2.5).answer(replace(SETTING, scale=2.5), suffix)
    before, image = read_image(path), read_image(answer.download)
    assert image.pixels.shape == (28, 35, 3) and answer.download.suffix == suffix
    assert (image.bits, image.gray, image.alpha is None) == (before.bits, before.gray, before.alpha is None)
    assert remarks(answer)["Result"] == f"{before.bits} bits per colour" and not answer.notes
    for path in (answer.before, answer.after, *answer.loupe):
        assert read_image(path).pixels.shape == (28, 35, 3) and (read_image(path).alpha is None) == (kind != "RGBA")


def test_other_formats_and_what_they_lose(service: Service) -> None:
    write_image(service.root.parent / "in.png", photo(11, 14).astype(np.uint16) * 257)
    session = visitor(service, "in.png")
    answers = [next(session.answer(SETTING, kind)) for kind in (".jpg", ".webp")]
    assert [read_image(answer.download).bits for answer in answers] == [8, 8]
    assert [answer.notes for answer in answers] == [
        [f"{kind} holds 8 bits per channel: rounded"] for kind in (".jpg", ".webp")
    ]


def test_the_loupe_looks_where_it_is_told(service: Service) -> None:
    """At the most difficult place first; 1:1, and at the picture's edge no further."""
    service.pixels = 10**7
    write_image(service.root.parent / "large.png", photo(200, 300))
    session = visitor(service, "large.png")
    answer = last(session)
    whole = read_image(answer.download).pixels
    bicubic = to_pixels(imresize(to_tensor(photo(200, 300)), whole.shape[:2]))
    assert max(read_image(answer.after).pixels.shape) == 1200 == max(whole.shape)
    for place in (Place(0, 0), Place(0.4, 0.7), Place(1, 1)):
        before, after = (read_image(path).pixels for path in session.look(place))
        rows, cols = place.window((800, 1200))
        assert after.shape == (360, 480, 3)
        np.testing.assert_array_equal(after, whole[rows, cols])
        np.testing.assert_allclose(before.astype(int), bicubic[rows, cols], atol=1)
    service.encoded.clear()  # as when others need the memory
    made = next(session.answer(SETTING))
    np.testing.assert_array_equal(read_image(made.loupe[1]).pixels, whole[-360:, -480:])  # it stays there


def test_what_is_larger_than_a_screen_is_shown_smaller(service: Service) -> None:
    service.pixels = 10**7
    write_image(service.root.parent / "large.png", photo(100, 500))
    answer = last(visitor(service, "large.png"))
    assert read_image(answer.download).pixels.shape == (400, 2000, 3)
    for path in (answer.before, answer.after, answer.overlay):
        assert read_image(path).pixels.shape == (320, 1600, 3)


@pytest.mark.parametrize("kind", ["missing", "text", "one pixel", "too many", "made too many"])
def test_bad_files_are_named_without_their_folder(kind: str, service: Service) -> None:
    path = service.root.parent / "bad.png"
    if kind == "text":
        path.write_bytes(b"hello")
    elif kind != "missing":
        size = {"one pixel": (1, 1), "too many": (225, 225), "made too many": (60, 60)}[kind]
        write_image(path, np.zeros((*size, 3), np.uint8))
    remedy = ".*max_pixels" if "many" in kind else ""
    with pytest.raises(InputError, match=rf"^bad.png: {remedy}") as error:
        last(visitor(service, "bad.png", shrink=kind == "one pixel"))
    assert str(service.root.parent) not in str(error.value)
    assert not service.encoded and not [path for path in service.root.rglob("*") if path.is_file()]


def test_what_the_file_lost_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    path = service.root.parent / "bad.png"
    path.write_bytes((service.root.parent / "photo.png").read_bytes()[:400])
    assert "damaged (" in last(visitor(service, "bad.png")).notes[0]
    content = bytearray((service.root.parent / "photo.png").read_bytes())
    content[16:20] = bytes([0, 0, 90, 0])  # a width that its checksum denies, and that the limit could not look at
    path.write_bytes(content)
    monkeypatch.setattr("utils.decode.decode_damaged", None)  # it would take the memory of any size
    with pytest.raises(InputError, match=r"bad\.png: not a readable"):
        last(visitor(service, "bad.png"))


def test_the_file_chooses_the_model(service: Service, tmp_path: Path) -> None:
    """Clean weights or those for photographs, where both are there; a note says which, and why."""
    assert service.models == ["tiny"]
    for name in (CLEAN, PHOTOS):
        save_tiny(tmp_path / "both" / name, TINY_PCSR)
    service.engines = load_engines([tmp_path / "both"], CPU)
    assert service.models == [AUTOMATIC, CLEAN, PHOTOS]
    write_image(tmp_path / "photo.jpg", photo(20, 28))
    jpeg, clean = "JPEG of quality about 95: weights for photographs", "weights for clean images"
    for name, shrink, weights, note in (
        ("photo.png", False, CLEAN, f"neither JPEG nor lossy WebP: {clean}, {CLEAN}"),
        ("photo.jpg", False, PHOTOS, f"{jpeg}, {PHOTOS}"),
        ("photo.jpg", True, CLEAN, f"shrunk first: {clean}, {CLEAN}"),
    ):
        made, named = (last(visitor(service, name, model=model, shrink=shrink)) for model in (AUTOMATIC, weights))
        assert made.notes == [note] and not named.notes
        assert made.download.read_bytes() == named.download.read_bytes()
    assert len(service.behind(AUTOMATIC)) == 2 and service.behind(CLEAN) == [service.engines[CLEAN]]


def test_visitors_do_not_meet_and_leave_nothing(service: Service) -> None:
    sessions = [visitor(service), visitor(service)]
    one, two = (last(session) for session in sessions)
    assert not {one.before, one.after, one.overlay} & {two.before, two.after, two.overlay}
    sessions[0].close()
    assert two.after.exists() and not one.after.exists() and list(service.encoded) == sessions[1:]
    sessions[1].close()
    assert not service.encoded and not any(service.root.iterdir())


def test_old_results_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    session = visitor(service)
    answers = [last(session, Setting("k", k / 10)) for k in range(2)]
    assert all(answer.after.exists() for answer in answers)
    monkeypatch.setattr("web.session.LOADING", -1)
    answers.append(last(session))
    session.look(Place(0.1, 0.1))
    assert [answer.download.exists() for answer in answers] == [False, False, True]  # while it is on the page


def test_memory_is_taken_from_those_who_came_first(service: Service) -> None:
    one, two = visitor(service), visitor(service)
    first = last(one)
    last(two)
    last(one)
    assert list(service.encoded) == [two, one]
    service.memory, enough = sum(picture.nbytes for picture in service.encoded.values()) - 1, service.memory
    last(two)
    assert list(service.encoded) == [two]
    assert first.after.exists()  # what the first one sees and may download stays
    service.memory = enough
    again = last(one)
    assert list(service.encoded) == [two, one] and again.download.read_bytes() == first.download.read_bytes()
