"""What the web page answers, without the web: pictures, numbers, limits, visitors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.restore_pcsr import least_budget, pcsr_restorer

from inference.restore import Setting
from models.checkpoint import load_model
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import to_tensor
from web.source import Ask, Limits, setting_of
from web.studio import Answer, Knobs, Studio, models_in

CPU = torch.device("cpu")
KNOBS = Knobs("k", 0.1, 0.9, True, "bicubic")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    save_tiny(tmp_path / "save" / "tiny", TINY_PCSR)
    write_image(tmp_path / "photo.png", photo(20, 28))
    (tmp_path / "root").mkdir()
    return Studio(models_in(tmp_path / "save"), CPU, Limits(50_000), tmp_path / "root")


def ask_for(studio: Studio, name: str = "photo.png", **changes: object) -> Ask:
    ask = Ask(studio.root.parent / name, None, shrink=False, model="tiny", scale=4.0)
    return ask._replace(**changes)  # type: ignore[arg-type]


def last(studio: Studio, ask: Ask, knobs: Knobs = KNOBS, visitor: str = "one") -> Answer:
    return list(studio.answer(visitor, ask, knobs))[-1]


def values(answer: Answer) -> dict[str, str]:
    return {number.label: number.value for number in answer.numbers}


def test_models_with_something_to_decide(tmp_path: Path) -> None:
    save = tmp_path / "save"
    with pytest.raises(InputError, match="no PCSR model"):
        models_in(save)
    save_tiny(save / "phase0", TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    save_tiny(save / "original", TINY_ORIGINAL)
    with pytest.raises(InputError, match="no PCSR model"):
        models_in(save)
    save_tiny(save / "phase1", TINY_PCSR)
    assert models_in(save) == {"phase1": save / "phase1"}


@pytest.mark.parametrize("rule,setting", [("k", Setting("k", 0.1)), ("adaptive", Setting("adaptive"))])
@pytest.mark.parametrize("refinement", [True, False])
@pytest.mark.parametrize("held", [1 << 30, 1])
def test_enlarged_as_the_restorer_does(
    rule: str, setting: Setting, refinement: bool, held: int, studio: Studio
) -> None:
    studio.limits = replace(studio.limits, held=held)
    answer = last(studio, ask_for(studio), replace(KNOBS, rule=rule, refinement=refinement))
    model, _ = load_model(studio.models["tiny"])
    lr = to_tensor(photo(20, 28))
    (expected,) = pcsr_restorer(model, [setting], refinement, CPU)(lr, 4)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(answer.after).pixels, expected.pixels)
    assert read_image(answer.before).pixels.shape == read_image(answer.overlay).pixels.shape == (80, 112, 3)
    assert values(answer)["Heavy pixels"] == f"{100 * expected.heavy_share:.1f} %"
    assert ("too large" in answer.note) == (held == 1)
    assert "PSNR, dB" not in values(answer)


def test_the_knob_moves_pictures_and_numbers(studio: Studio) -> None:
    answers = [last(studio, ask_for(studio), replace(KNOBS, k=k)) for k in (-99, 99)]
    assert [values(answer)["Heavy pixels"] for answer in answers] == ["100.0 %", "0.0 %"]
    heavy, light = (read_image(answer.after).pixels for answer in answers)
    assert (heavy != light).any()
    assert answers[0].numbers[1].note == "100.0 % of all heavy"
    (source,) = {id(visit.source) for visit in studio.visits.values()}
    last(studio, ask_for(studio), replace(KNOBS, rule="budget"))
    assert {id(visit.source) for visit in studio.visits.values()} == {source}  # not encoded again


def test_shrunk_first_or_against_a_reference(studio: Studio) -> None:
    write_image(studio.root.parent / "hr.png", photo(83, 64))
    first, *_, answer = studio.answer("one", ask_for(studio, "hr.png", shrink=True), KNOBS)
    assert values(first)["SSIM"] == "..." and values(first)["PSNR, dB"] == values(answer)["PSNR, dB"]
    assert float(values(answer)["SSIM"]) > 0.3
    assert read_image(answer.after).pixels.shape == (80, 64, 3)
    write_image(studio.root.parent / "reference.png", photo(82, 113))
    answer = last(studio, ask_for(studio, reference=studio.root.parent / "reference.png"))
    assert float(values(answer)["PSNR, dB"]) > 15
    with pytest.raises(InputError, match=r"reference.png: HR is 113x82 .* 140x100; check the scale"):
        last(studio, ask_for(studio, reference=studio.root.parent / "reference.png", scale=5.0))


@pytest.mark.parametrize("kind", ["RGBA", "16", "gray"])
def test_the_download_is_what_the_file_was(kind: str, studio: Studio) -> None:
    path, picture = studio.root.parent / "in.png", photo(11, 14)
    if kind == "16":
        write_image(path, picture.astype(np.uint16) * 257)
    else:
        alpha = np.full((11, 14), 200, np.uint8) if kind == "RGBA" else None
        write_image(path, picture if kind == "RGBA" else picture[:, :, 0], alpha)
    answer = last(studio, ask_for(studio, "in.png", scale=2.5))
    before, *made = (read_image(file) for file in (path, answer.before, answer.after))
    for image in made:
        assert image.pixels.shape == (28, 35, 3)
        assert (image.bits, image.gray, image.alpha is None) == (before.bits, before.gray, before.alpha is None)


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "one pixel", "too many", "made too many"])
def test_bad_files_are_named_without_their_folder(kind: str, studio: Studio) -> None:
    path = studio.root.parent / "bad.png"
    if kind in ("text", "truncated"):
        path.write_bytes(b"hello" if kind == "text" else (studio.root.parent / "photo.png").read_bytes()[:400])
    elif kind != "missing":
        size = {"one pixel": (1, 1), "too many": (225, 225), "made too many": (60, 60)}[kind]
        write_image(path, np.zeros((*size, 3), np.uint8))
    with pytest.raises(InputError, match=r"^bad.png: ") as error:
        last(studio, ask_for(studio, "bad.png", shrink=kind == "one pixel"))
    assert str(studio.root.parent) not in str(error.value)
    assert not studio.visits and not any(studio.root.iterdir())


def test_visitors_do_not_meet(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (last(studio, ask_for(studio), visitor=visitor) for visitor in ("one", "two"))
    folders = {answer.after.parents[1] for answer in (one, two)}
    assert len(folders) == 2
    studio.forget("one")
    studio.forget("nobody")
    assert two.after.exists() and not one.after.parents[1].exists()
    monkeypatch.setattr("web.studio.VISITORS", 1)
    last(studio, ask_for(studio), visitor="three")
    assert list(studio.visits) == ["three"] and len(list(studio.root.iterdir())) == 1


def test_old_files_go(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [last(studio, ask_for(studio), replace(KNOBS, k=k / 10)) for k in range(2)]
    assert all(answer.after.exists() for answer in answers)
    monkeypatch.setattr("web.studio.LOADING", -1)
    answers.append(last(studio, ask_for(studio), replace(KNOBS, k=1.0)))
    assert [answer.after.exists() for answer in answers] == [False, False, True]
    answer = last(studio, ask_for(studio, scale=2.0))
    assert answer.after.exists() and not answers[-1].after.exists()
    assert len(list(studio.root.iterdir())) == 1


def test_memory_is_taken_from_those_who_came_first(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = last(studio, ask_for(studio), visitor="one")
    visit = studio.visits["one"]
    assert visit.source is not None
    studio.limits = replace(studio.limits, held=visit.source.nbytes)
    monkeypatch.setattr("web.studio.ENCODINGS", 1)
    last(studio, ask_for(studio), visitor="two")
    assert visit.source is None and studio.visits["two"].source is not None
    assert first.after.exists()  # what the first one sees and may download stays
    again = last(studio, ask_for(studio), visitor="one")
    assert again.after.read_bytes() == first.after.read_bytes()


def test_settings(studio: Studio) -> None:
    account = studio.worker("tiny").account
    least = least_budget(account, 4)
    assert studio.least_budget("tiny", 4) == least
    assert setting_of("budget", 0, 0.0, account, 4) == Setting("budget", least)
    assert setting_of("budget", 0, 7.0, account, 4) == Setting("budget", 1.0)
    assert setting_of("k", 0.5, 0, account, 4) == Setting("k", 0.5)
    with pytest.raises(InputError, match="no such model"):
        studio.worker("../tiny")
