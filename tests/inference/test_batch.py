"""demo.py --upscale on folders and patterns."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from models.checkpoint import load_model, save_weights
from tests.conftest import ROOT, TINY_PCSR, Cli, Outcome, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.metadata import read_mark
from utils.parse import load_config


@pytest.fixture
def work(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "save" / "pcsr", TINY_PCSR)
    for index, name in enumerate(("a.png", "b ü.jpg", "c.webp")):
        write_image(tmp_path / "in" / name, photo(9, 12, index))
    return tmp_path


def upscale(cli: Cli, *args: object) -> Outcome:
    return cli("demo.py", "--upscale", "--model", "save/pcsr", "--out_dir", "out", *args)


def written(work: Path, folder: str = "out") -> dict[str, int]:
    """Name -> when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (work / folder).iterdir()}


@pytest.mark.parametrize("given", [["in"], ["in/*"], ["in/a.png", "in/b ü.jpg", "in/c.webp"], ["in", "in/a*"]])
def test_folders_patterns_and_lists(given: list[str], cli: Cli, work: Path) -> None:
    (work / "in" / "notes.txt").write_text("no image")
    (work / "in" / "._a.png").write_text("hidden")
    outcome = upscale(cli, "--img_path", *given, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert written(work).keys() == {"a_x4.png", "b ü_x4.png", "c_x4.png"}  # no assignments of several
    assert json.loads(outcome.out.splitlines()[-1])[0]["images"] == 3


def test_what_is_done_is_left_alone(cli: Cli, work: Path) -> None:
    upscale(cli, "--img_path", "in")
    before = written(work)
    os.utime(work / "in" / "a.png")  # touched, not changed
    again = upscale(cli, "--img_path", "in", "--json")
    assert again.code == 0 and written(work) == before
    assert "already there" in again.out and again.out.splitlines()[-1] == "[]"
    write_image(work / "in" / "a.png", photo(9, 12, seed=7))
    os.utime(work / "in" / "a.png", (0, 0))  # changed, with an old date
    upscale(cli, "--img_path", "in")
    after = written(work)
    assert {name for name in after if after[name] != before[name]} == {"a_x4.png"}
    for other in (["--k", "1"], ["--k", "1", "--no_refinement"], ["--scale", "2", "--suffix", "_x4"], ["--overwrite"]):
        before = written(work)
        assert upscale(cli, "--img_path", "in", *other).code == 0
        after = written(work)
        assert before.keys() == after.keys() and all(before[name] != after[name] for name in after)


def test_other_weights_make_it_again(cli: Cli, work: Path) -> None:
    upscale(cli, "--img_path", "in/a.png")
    before = written(work)
    save_tiny(work / "save" / "pcsr", TINY_PCSR)  # of another seed's state
    upscale(cli, "--img_path", "in/a.png")
    assert before.keys() == written(work).keys() and before != written(work)


def test_another_limit_makes_it_again(cli: Cli, work: Path) -> None:
    """The same weights, of a training at other scales: the limits of rel_cell decide the result as well."""
    weights = work / "save/pcsr"
    assert upscale(cli, "--img_path", "in/a.png").code == 0
    save_weights(weights, load_model(weights)[0], load_config(weights / "config.yaml", ["data.scale=2"]))
    assert "already there" not in upscale(cli, "--img_path", "in/a.png").out
    assert "already there" in upscale(cli, "--img_path", "in/a.png").out


def test_what_no_image_can_have(cli: Cli, work: Path) -> None:
    outcome = upscale(cli, "--img_path", "in", "--budget", "0.01")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "budget 0.01: must lie between" in outcome.err
    outcome = upscale(cli, "--img_path", "in", "--scale", "60000")
    assert outcome.code == 2 and all(f"error: in/{name}: scale 60000" in outcome.err for name in ("a.png", "b ü.jpg"))


def test_one_that_fails_stops_no_other(cli: Cli, work: Path) -> None:
    (work / "in" / "b.png").write_text("hello")
    (work / "in" / "d.png").write_bytes((work / "in" / "a.png").read_bytes()[:150])
    outcome = upscale(cli, "--img_path", "in")
    assert outcome.code == 2 and len(written(work)) == 3
    *each, last = outcome.err.splitlines()
    assert [line.split(": ")[:2] for line in each] == [["error", "in/b.png"], ["error", "in/d.png"]]
    assert last == "error: 2 of 5 images failed; the others are done"


def test_equal_stems_get_different_names(cli: Cli, work: Path) -> None:
    write_image(work / "in" / "A.jpg", photo(5, 5))
    assert upscale(cli, "--img_path", "in").code == 0
    assert written(work).keys() == {"a_png_x4.png", "A_jpg_x4.png", "b ü_x4.png", "c_x4.png"}


def test_equal_names_are_refused(cli: Cli, work: Path) -> None:
    write_image(work / "other" / "a.png", photo(5, 5))
    outcome = upscale(cli, "--img_path", "in", "other")
    assert outcome.code == 2 and "would both become" in outcome.err and not (work / "out").exists()


def test_results_of_other_inputs_and_other_files_stay(cli: Cli, work: Path) -> None:
    upscale(cli, "--img_path", "in/a.png")
    write_image(work / "in" / "a.jpg", photo(5, 5))
    (work / "out" / "c_x4.png").write_text("mine")
    for name in ("a.jpg", "c.webp"):
        before = written(work)
        outcome = upscale(cli, "--img_path", f"in/{name}")
        assert outcome.code == 2 and "made from it; --overwrite replaces it" in outcome.err and written(work) == before
        assert upscale(cli, "--img_path", f"in/{name}", "--overwrite").code == 0
        assert len(set(written(work).items()) - set(before.items())) == 1


def test_images_of_one_name_in_two_folders(cli: Cli, work: Path) -> None:
    upscale(cli, "--img_path", "in/a.png")
    before = written(work)
    write_image(work / "other" / "a.png", photo(5, 5))
    outcome = upscale(cli, "--img_path", "other/a.png")
    assert outcome.code == 2 and "does not say that it was made from it" in outcome.err and written(work) == before
    (work / "in" / "a.png").replace(work / "other" / "a.png")  # moved
    outcome = upscale(cli, "--img_path", "other/a.png")
    assert outcome.code == 0 and "already there" in outcome.out and written(work) == before


@pytest.mark.parametrize("how", ["name", "symlink", "hard link", "another input"])
def test_an_input_is_never_written_over(how: str, cli: Cli, work: Path) -> None:
    out, source = work / "out", work / "in" / "a.png"
    out.mkdir()
    args: list[object] = ["--img_path", "in/a.png", "--suffix", ""]
    if how == "name":
        args += ["--out_dir", "in/../in"]
    elif how == "symlink":
        (out / "a.png").symlink_to(source)
    elif how == "hard link":
        (out / "a.png").hardlink_to(source)
    else:
        write_image(out / "a_x4.png", photo(5, 5))
        args = ["--img_path", "in/a.png", "out/a_x4.png"]
    before = {path: path.read_bytes() for path in work.glob("*/*.png")}
    outcome = upscale(cli, *args, "--overwrite")
    assert outcome.code == 2 and "is an input" in outcome.err
    assert {path: path.read_bytes() for path in before} == before


def test_results_beside_their_inputs_are_no_inputs(cli: Cli, work: Path) -> None:
    for _ in range(2):
        outcome = upscale(cli, "--img_path", "in", "--out_dir", "in", "--assignment")
        assert outcome.code == 0, outcome.err
        assert len(written(work, "in")) == 9
    assert "already there" in outcome.out
    assert upscale(cli, "--img_path", "in/a_x4.png").code == 0  # named, it is one
    assert written(work).keys() == {"a_x4_x4.png"}
    outcome = upscale(cli, "--img_path", "in/*_x4*", "--out_dir", "in")
    assert outcome.code == 2 and "results of earlier runs" in outcome.err


@pytest.mark.parametrize("args,count", [([], 1), (["--assignment"], 2), (["--assignment", "--k", "0", "1"], 4)])
def test_assignments_when_asked(args: list[str], count: int, cli: Cli, work: Path) -> None:
    assert upscale(cli, "--img_path", "in/a.png", *args).code == 0
    assert len(written(work)) == count
    assert all(read_mark(path) for path in (work / "out").iterdir())


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_formats(kind: str, cli: Cli, work: Path) -> None:
    deep = (photo(9, 12) * np.uint16(257)).astype(np.uint16)
    write_image(work / "in" / "deep.png", deep, np.full((9, 12), 30000, np.uint16))
    quality = ["--quality", "90"] if kind in ("jpg", "webp") else []
    outcome = upscale(cli, "--img_path", "in", "--format", kind, "--suffix=-large", *quality)
    assert outcome.code == 0
    notes = [line.partition("deep.png: ")[2] for line in outcome.err.splitlines()]
    bits, white = f".{kind} holds 8 bits per channel: rounded", f".{kind} holds no transparency: laid on white"
    assert notes == {"png": [], "tif": [], "jpg": [f"{bits}; {white}"], "webp": [bits]}[kind]
    for name in ("a", "b ü", "c", "deep"):
        path = work / "out" / f"{name}-large.{kind}"
        with Pillow.open(path) as file:
            assert file.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}[kind] and file.size == (
                48,
                36,
            )
    image = read_image(work / "out" / f"deep-large.{kind}")
    assert image.bits == (16 if kind in ("png", "tif") else 8) and (image.alpha is None) == (kind == "jpg")


def test_a_line_for_each_picture(cli: Cli, work: Path) -> None:
    first = upscale(cli, "in")
    lines = first.out.splitlines()[1:]
    assert re.fullmatch(r"in/a\.png: 12x9 -> 48x36, \d+\.\d s, out/a_x4\.png", lines[0])
    assert lines[3] == "3 of 3 images written to out" and first.err == ""
    again = upscale(cli, "in", "--img_path", "in/a.png").out.splitlines()[1:]
    assert again[0].startswith("in/a.png: already there") and again[0].endswith(": out/a_x4.png")
    assert again[3] == "0 of 3 images written to out, 3 already there"
    several = upscale(cli, "in", "--k", "0", "1", "--assignment").out.splitlines()
    assert several[-1] == "3 of 3 images written to out (12 files)" and len(written(work)) == 3 + 12
    assert "PSNR" not in first.out


def test_what_a_folder_holds_besides_is_told(cli: Cli, work: Path) -> None:
    for name in ("z.heic", "y.CR2", ".hidden.heic", "notes.txt", "x.gif"):
        (work / "in" / name).write_bytes(b"GIF89a" if name == "x.gif" else b"")
    write_image(work / "in" / "more" / "a.png", photo(9, 12))
    (work / "in" / "empty").mkdir()
    told = "not upscaled: of a kind that is not read: y.CR2, z.heic"
    outcome = upscale(cli, "in")
    assert outcome.code == 2 and "in/x.gif" in outcome.err  # a damaged one is named as all are
    assert f"note: {told}; in folders within, which are not entered: more" in outcome.err.splitlines()
    assert f"note: {told}" in upscale(cli, "in/*.*").err.splitlines()
    assert "not upscaled" not in upscale(cli, "in/a.png").err
    for number in range(7):
        (work / "in" / f"{number}.dng").touch()
    assert "0.dng, 1.dng, 2.dng, 3.dng, 4.dng, 4 more" in upscale(cli, "in").err


def test_a_damaged_file_is_taken_if_asked(cli: Cli, work: Path) -> None:
    write_image(work / "photo.jpg", photo(40, 48))
    content = (work / "photo.jpg").read_bytes()
    (work / "photo.jpg").write_bytes(content[:-100])
    refused = upscale(cli, "photo.jpg")
    assert refused.code == 2 and "; --accept_damaged takes what can be decoded" in refused.err
    outcome = upscale(cli, "photo.jpg", "--accept_damaged")
    assert outcome.code == 0 and "note: photo.jpg: damaged (" in outcome.err
    assert written(work).keys() == {"photo_x4.png"}


def test_a_folder_is_shared_out(work: Path) -> None:
    (work / "in" / "d.png").write_text("hello")
    command = [
        str(ROOT / "dist.sh"),
        str(ROOT / "demo.py"),
        "in",
        "--upscale",
        "--model",
        "save/pcsr",
        "--out_dir",
        "out",
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--cpu", "2"], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and written(work).keys() == {"a_x4.png", "b ü_x4.png", "c_x4.png"}
    assert "3 of 4 images written to out" in done.stdout.splitlines()
    *_, last = done.stderr.splitlines()
    assert last == "error: 1 of 4 images failed; the others are done" and done.stderr.count("in/d.png") == 1


@pytest.mark.parametrize(
    "args,message",
    [
        (["--img_path", "none/*.jpg"], "none/*.jpg: matches no images"),
        (["--img_path", "empty"], "empty: no images in it"),
        (["--img_path", "missing.png"], "missing.png: No such file"),
        (["--img_path", "in", "--suffix", "/x"], "--suffix /x"),
        (["--img_path", "in", "--quality", "0"], "--quality 0"),
        (["--img_path", "in", "--format", "gif"], "--format"),
        (["--img_path", "in", "--out_dir", "in/a.png/x"], "cannot write to in/a.png/x"),
        (["--img_path", "in", "--out_dir", "/proc/x"], "cannot write"),
    ],
)
def test_bad_options(args: list[str], message: str, cli: Cli, work: Path) -> None:
    (work / "empty").mkdir()
    outcome = upscale(cli, *args)
    assert outcome.code == 2 and message in outcome.err and outcome.err.startswith("error: ")
    assert not (work / "out").exists() and len(written(work, "in")) == 3


def test_sizes_that_the_format_lacks_are_refused_before_the_work(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(work / "in/wide.png", photo(1, 5000))
    monkeypatch.setattr("inference.batch.restore_image", None)
    outcome = upscale(cli, "--img_path", "in/wide.png", "--format", "webp")
    assert outcome.code == 2 and outcome.err.endswith("a side of a .webp has at most 16383; use .png\n")


def test_refused_memory_names_the_image(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("inference.batch.restore_image", refused)
    outcome = upscale(cli, "--img_path", "in/a.png")
    assert outcome.code == 2 and "in/a.png: " in outcome.err and "more memory than there is" in outcome.err


def test_several_images_cannot_be_simulated(cli: Cli, work: Path) -> None:
    for given in (["in"], ["in/a.png", "in/c.webp"]):
        outcome = cli("demo.py", "--img_path", *given)
        assert outcome.code == 2 and "add --upscale" in outcome.err
