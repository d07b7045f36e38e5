"""The test sets made from DIV8K."""

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from datasets import prepare
from datasets.div8k import compact, make_test_sets
from datasets.folder import PairedFolder
from tests.conftest import Cli, photo
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import Array, Image, to_tensor
from utils.resize import downscale, imresize

SETS = {"Test2K": (range(1, 4), 4), "Test4K": (range(4, 6), 2), "Test8K": (range(6, 8), 1)}
SIZE = (155, 182)  # neither the factors nor 4 divide it


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, tuple[range, int]]:
    """A DIV8K of seven images."""
    monkeypatch.setattr("datasets.div8k.TEST_SETS", SETS)
    return SETS


def div8k(folder: Path, numbers: Sequence[int], pattern: str = "{:04d}.png", size: tuple[int, int] = SIZE) -> Path:
    for number in numbers:
        path = folder / pattern.format(number)
        path.parent.mkdir(exist_ok=True)
        Pillow.fromarray(photo(*size, number)).save(path)
    return folder


def levels(image: torch.Tensor) -> Array:
    """(1,3,H,W) of whole levels -> (H,W,3) uint8."""
    return (image + 0.5).floor().clamp(0, 255)[0].permute(1, 2, 0).numpy().astype(np.uint8)


def pixels(path: Path) -> Array:
    return read_image(path).pixels


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def test_what_the_sets_hold(tmp_path: Path, sets: Mapping[str, tuple[range, int]]) -> None:
    folder = div8k(tmp_path / "in", range(1, 9))
    (folder / "notes-1.png").write_bytes(b"not a number, so not looked at")
    make_test_sets(folder, tmp_path / "out", list(sets), workers=1)
    for name, (numbers, factor) in sets.items():
        out = tmp_path / "out" / name
        expected = [f"{number:04d}.png" for number in numbers]
        assert [sorted(path.name for path in (out / kind).iterdir()) for kind in ("HR", "LR")] == [expected] * 2
        for number in numbers:
            height, width = SIZE[0] // factor, SIZE[1] // factor
            exact = torch.from_numpy(photo(*SIZE, number)[: height * factor, : width * factor]).permute(2, 0, 1)
            hr = levels(imresize(exact[None].double(), (height, width)))[: height // 4 * 4, : width // 4 * 4]
            assert (pixels(out / "HR" / f"{number:04d}.png") == hr).all()
            lr = levels(255 * downscale(to_tensor(hr).double(), 4))
            assert (pixels(out / "LR" / f"{number:04d}.png") == lr).all()
        stored, made = (PairedFolder(str(out / "HR"), lr, 4) for lr in (str(out / "LR"), None))
        for one, other in zip(stored, made, strict=True):  # what an evaluation makes of HR, value for value
            assert torch.equal(one.hr, other.hr)
            assert torch.equal((one.lr * 255).round(), (other.lr * 255).round())


def test_one_image_is_held_at_a_time(
    tmp_path: Path, sets: Mapping[str, tuple[range, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Array]] = []
    alive: list[int] = []

    def watched(path: Path) -> Image:
        alive.append(sum(reference() is not None for reference in seen))
        image = read_image(path)
        seen.append(weakref.ref(image.pixels))
        return image

    monkeypatch.setattr(prepare, "read_image", watched)
    make_test_sets(div8k(tmp_path / "in", range(1, 8)), tmp_path / "out", list(sets), workers=1)
    assert alive == [0] * 7


def test_what_is_whole_is_kept_and_the_rest_is_made(
    tmp_path: Path, sets: Mapping[str, tuple[range, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = div8k(tmp_path / "in", range(1, 8)), tmp_path / "out"
    make_test_sets(folder, out, list(sets), workers=1)
    assert "7 images done, 0 were done already" in capsys.readouterr().out
    before = stamps(out)
    whole = {path: path.read_bytes() for path in before}
    assert len(before) == 14
    make_test_sets(folder, out, list(sets), workers=1)
    assert "0 images done, 7 were done already" in capsys.readouterr().out and stamps(out) == before
    cut, flipped, gone, empty = (
        out / name for name in ("Test2K/HR/0001.png", "Test2K/LR/0002.png", "Test4K/LR/0004.png", "Test8K/HR/0006.png")
    )
    cut.write_bytes(whole[cut][:-1000])
    damaged = bytearray(whole[flipped])
    damaged[len(damaged) // 2] ^= 1
    flipped.write_bytes(damaged)
    gone.unlink()
    empty.write_bytes(b"")
    make_test_sets(folder, out, list(sets), workers=1)
    assert "4 images done, 3 were done already" in capsys.readouterr().out
    after = stamps(out)
    assert {path: path.read_bytes() for path in after} == whole
    assert {path for path in after if after[path] != before[path]} == {cut, flipped, gone, empty}


def test_an_image_that_fails_is_named_and_the_others_are_done(
    tmp_path: Path, sets: Mapping[str, tuple[range, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = div8k(tmp_path / "in", range(1, 8)), tmp_path / "out"
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:500])
    write_image(folder / "0003.png", photo(30, 200))  # 7 HR rows are 1 LR row
    with pytest.raises(InputError, match="2 of 3 images failed; the others are done"):
        make_test_sets(folder, out, ["Test2K"], workers=1)
    first, second = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert str(folder / "0002.png") in first and "not a readable" in first
    assert str(folder / "0003.png") in second and "too few" in second
    assert sorted(path.name for path in out.rglob("*.png")) == ["0001.png", "0001.png"]


def test_an_incomplete_div8k_is_refused_unwritten(tmp_path: Path) -> None:
    lacking = (1207, 1208, 1299)
    numbers = [number for number in range(1201, 1301) if number not in lacking]
    folder = div8k(tmp_path / "in", numbers, "{}.png", size=(4, 4))
    with pytest.raises(InputError, match=r"103 of 200 images are missing: 1207-1208, 1299, 1401-1500; nothing was w"):
        make_test_sets(folder, tmp_path / "out", ["Test2K", "Test8K"], workers=1)
    div8k(folder, [*lacking, 1250], "{:05d}.png", size=(4, 4))  # 1250.png and 01250.png
    with pytest.raises(InputError, match="more than one file for images 1250"):
        make_test_sets(folder, tmp_path / "out", ["Test2K"], workers=1)
    assert not (tmp_path / "out").exists()


def test_compact() -> None:
    assert compact([1, 2, 3, 5, 8, 9]) == "1-3, 5, 8-9"
    assert compact(range(1, 100, 2)) == "1, 3, 5, 7, 9, ..."


def test_command(tmp_path: Path, cli: Cli) -> None:
    """Of the right range, whatever else is there; without the images it ends with one line."""
    folder = div8k(tmp_path / "in", range(1195, 1301), size=(33, 42))
    command = ("datasets/scripts/make_test_sets.py", "--input", folder, "--output", tmp_path / "out", "--workers", 1)
    missing = f"error: {folder}: 200 of 300 images are missing: 1301-1500; nothing was written\n"
    assert cli(*command) == (2, "", missing)
    done = cli(*command, "--sets", "Test2K")
    assert done.code == 0, done.err
    assert "100 images done, 0 were done already" in done.out
    names = [f"{number}.png" for number in range(1201, 1301)]
    assert [sorted(path.name for path in (tmp_path / "out/Test2K" / kind).iterdir()) for kind in ("HR", "LR")] == [
        names
    ] * 2
    assert [pixels(tmp_path / f"out/Test2K/{kind}/1300.png").shape for kind in ("HR", "LR")] == [(8, 8, 3), (2, 2, 3)]
