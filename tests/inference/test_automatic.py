"""The weights that demo.py --upscale takes by itself: for each image by its file."""

import shutil
from pathlib import Path

import pytest
from PIL import Image as Pillow

from inference.automatic import CLEAN, CLEAN_QUALITY, PHOTOS, weights_for
from tests.conftest import ROOT, TINY_PCSR, Cli, photo, save_tiny
from utils.image import Lossy
from utils.metadata import read_mark

TAKEN = "3 of 3 images written to out"


@pytest.fixture
def work(tmp_path: Path, cli: Cli) -> Path:
    """Tiny weights of both kinds, their configs, and images of three kinds."""
    (tmp_path / "configs").unlink()
    (tmp_path / "configs").mkdir()
    for name in (CLEAN, PHOTOS):
        shutil.copy(save_tiny(tmp_path / "save" / name, TINY_PCSR) / "config.yaml", tmp_path / f"configs/{name}.yaml")
    (tmp_path / "in").mkdir()
    picture = Pillow.fromarray(photo(9, 12))
    picture.save(tmp_path / "in" / "a.png")
    picture.save(tmp_path / "in" / "b.jpg", quality=75)
    picture.save(tmp_path / "in" / "c.webp")
    return tmp_path


def about(kind: str) -> str:
    """The name of the weights in the mark of a result."""
    mark = read_mark(Path("out") / f"{kind}_x4.png")
    assert mark is not None
    return mark.split()[1]


def test_the_choice() -> None:
    for lossy in (None, Lossy("JPEG", CLEAN_QUALITY + 1), Lossy("JPEG", 100)):
        assert weights_for(lossy)[0] == CLEAN
    for lossy in (Lossy("JPEG", CLEAN_QUALITY), Lossy("JPEG", 1), Lossy("JPEG"), Lossy("WebP")):
        assert weights_for(lossy)[0] == PHOTOS
    assert weights_for(Lossy("JPEG", 99))[1] == "JPEG of quality about 99: weights for clean images"


def test_the_docs_say_what_is_chosen() -> None:
    for path in ("README.md", "demo.py"):
        assert f"of quality {CLEAN_QUALITY} or lower and lossy WebP" in " ".join((ROOT / path).read_text().split()), (
            path
        )
    page = (ROOT / "docs/upscaling.md").read_text(encoding="utf-8")
    assert f"| JPEG of quality {CLEAN_QUALITY} or lower; lossy WebP | for photographs: `save/{PHOTOS}` |" in page
    assert f"| everything else | for clean images: `save/{CLEAN}` |" in page


def test_each_image_of_a_folder_gets_its_own(cli: Cli, work: Path) -> None:
    outcome = cli("demo.py", "in", "--upscale", "--out_dir", "out", "--precision", "float32")
    assert (outcome.code, outcome.err) == (0, "")
    first, *lines = outcome.out.splitlines()
    introduced, remedy = [first, lines.pop(1)], "--model chooses others)"
    assert all(line.startswith("PCSR on FSRCNN, 6,154 parameters") for line in introduced)
    clean, photos = f"weights for clean images, save/{CLEAN}", f"weights for photographs, save/{PHOTOS}"
    assert lines[0].endswith(f" s, out/a_x4.png (neither JPEG nor lossy WebP: {clean}; {remedy}")
    assert lines[1].endswith(f" s, out/b_x4.png (JPEG of quality about 75: {photos}; {remedy}")
    assert lines[2].endswith(f" s, out/c_x4.png (lossy WebP: {photos}; {remedy}")
    assert lines[3] == TAKEN and [about(kind) for kind in "abc"] == [CLEAN, PHOTOS, PHOTOS]


def test_results_are_those_of_the_weights_taken(cli: Cli, work: Path) -> None:
    """Named, they make the same files; others make them again."""
    options = ("--upscale", "--out_dir", "out")
    assert TAKEN in cli("demo.py", "in", *options).out
    for names, weights in (["a.png"], CLEAN), (["b.jpg", "c.webp"], PHOTOS):
        again = cli("demo.py", *[f"in/{name}" for name in names], *options, "--model", f"save/{weights}").out
        assert again.count("already there") >= len(names) and "weights for" not in again
    assert TAKEN + ", 3 already there" in cli("demo.py", "in", *options).out.replace("0 of 3", "3 of 3")
    assert (
        "1 of 3 images written to out, 2 already there"
        in cli("demo.py", "in", *options, "--config", f"configs/{PHOTOS}.yaml").out
    )
    assert about("a") == PHOTOS
    save_tiny(work / "save" / PHOTOS, TINY_PCSR)  # of another seed's state
    again = cli("demo.py", "in", *options).out
    assert TAKEN in again and [about(kind) for kind in "abc"] == [CLEAN, PHOTOS, PHOTOS]


def test_weights_are_loaded_when_they_are_needed(cli: Cli, work: Path) -> None:
    shutil.rmtree(work / "save" / PHOTOS)
    options = ("--upscale", "--out_dir", "out")
    assert cli("demo.py", "in/a.png", *options).out.count("parameters") == 1
    (work / "save" / CLEAN).rename(work / "save" / PHOTOS)
    outcome = cli("demo.py", "in/b.jpg", *options)
    assert outcome.code == 0 and outcome.out.count("parameters") == 1


def test_wrong_options_end_the_command(cli: Cli, work: Path) -> None:
    for options, message in ((["--scale", 0], "scale 0"), (["--k", "nan"], "k must be a number")):
        outcome = cli("demo.py", "in", "--upscale", "--out_dir", "out", *options)
        assert outcome.code == 2 and outcome.err.startswith(f"error: {message}") and len(outcome.err.splitlines()) == 1


def test_a_simulation_does_not_choose(cli: Cli, work: Path) -> None:
    Pillow.fromarray(photo(50, 70)).save(work / "b.jpg")
    outcome = cli("demo.py", "b.jpg")
    assert outcome.code == 0 and "weights for" not in outcome.out
    assert f'"model": "{CLEAN}"' in (work / "results/demo/b/record.json").read_text()
