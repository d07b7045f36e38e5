import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from torch import Tensor

from evaluation.simulate import place_shown, simulate
from inference.restore import Restored
from inference.restorers import bicubic_restorer
from tests.conftest import ROOT, TINY_ORIGINAL, TINY_PCSR, Cli, Outcome, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.patches import Patches


@pytest.fixture
def work(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "save" / "pcsr", TINY_PCSR)
    save_tiny(tmp_path / "save" / "fsrcnn-x4", TINY_ORIGINAL)
    write_image(tmp_path / "photo.png", photo(50, 70))
    return tmp_path


def demo(cli: Cli, *args: object) -> Outcome:
    return cli("demo.py", "--model", "save/pcsr", *args)


def test_simulation_writes_everything(cli: Cli, work: Path) -> None:
    outcome = demo(cli, "--img_path", "photo.png", "--k", "0", "--json")
    assert outcome.code == 0, outcome.err
    folder = work / "results" / "demo" / "photo"
    sizes = {path.name: read_image(path).pixels.shape[:2] for path in folder.glob("*.png")}
    assert sizes.pop("comparison.png")
    assert sizes.pop("lr.png") == (12, 17)
    files = ["bicubic.png", "hr.png", "original.png", "pcsr.png", "assignment.png"]
    assert sizes == dict.fromkeys(files, (48, 68))
    rows = json.loads(outcome.out.splitlines()[-1])
    assert [row["setting"] for row in rows] == ["bicubic", "original", "k=0"]
    assert rows[2]["psnr"] > 20
    assert (folder / "report.csv").exists()


def test_the_picture_says_what_it_shows(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel for each way, named, with PSNR and seconds as in the table; HR last."""
    captions: list[str] = []

    def panel(row: list[tuple[str, np.ndarray]], window: object, about: str) -> bytes:
        captions.extend(caption for caption, _ in row)
        return b""

    monkeypatch.setattr("evaluation.simulate.panel", panel)
    outcome = demo(cli, "--img_path", "photo.png", "--k", "0", "--json")
    facts = [f"{row['psnr']:.2f} dB, {row['seconds']:.2f} s" for row in json.loads(outcome.out.splitlines()[-1])]
    names = [caption.partition("\n") for caption in captions]
    assert [name for name, _, _ in names] == ["bicubic", "original model", "PCSR, k=0", "assignment", "HR"]
    assert [fact for _, _, fact in names[:3]] == facts and "heavy (red)" in captions[3]


def test_the_place_that_is_magnified() -> None:
    """By all settings together, in whatever order they are given; by the errors where all pixels are alike."""
    few, many = np.zeros((2, 50, 60), np.uint8)
    few[:6, :6], many[30:, 40:] = 1, 1
    sr, hr = np.zeros((2, 50, 60, 3), np.uint8)
    hr[30:, :13] = 9
    window, about = place_shown([few], sr, hr)
    assert many[window].sum() == 0 and few[window].sum() == 36 and about.endswith("with the most heavy pixels.")
    for order in [few, many], [many, few]:
        window, about = place_shown(order, sr, hr)
        assert many[window].all() and "the most heavy pixels, all settings together" in about
    for alike in [], [np.ones_like(few)]:
        window, about = place_shown(alike, sr, hr)
        assert hr[window].all() and "differs from HR the most" in about


def test_every_way_is_warm_before_it_is_timed(work: Path) -> None:
    sizes = []

    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        sizes.append(tuple(lr.shape[2:]))
        return bicubic_restorer(2)(lr, patches, bits)

    write_image(work / "large.png", photo(300, 400))
    simulate(work / "large.png", 2, [restore], work / "out", 0.5)
    assert sizes == [(128, 128), (150, 200)]


def test_a_simulation_replaces_no_other(cli: Cli, work: Path) -> None:
    for options, folder in ([], "photo"), (["--k", "0"], "photo"), (["--k", "1"], "photo-2"), ([], "photo"):
        assert demo(cli, "--img_path", "photo.png", *options).out.endswith(f"written to results/demo/{folder}\n")
    write_image(work / "photo.png", photo(50, 70, 1))
    note = demo(cli, "--img_path", "photo.png").err
    assert "differ in the image content; the new ones go to results/demo/photo-3" in note


def test_default_picture_and_default_decisions(cli: Cli, work: Path) -> None:
    outcome = demo(cli, "--scale", "8", "--json")
    assert outcome.code == 0, outcome.err
    assert read_image(work / "results/demo/astronaut/pcsr.png").pixels.shape == (512, 512, 3)
    assert "original model" in outcome.out  # x4 only: said, not hidden


def test_the_original_model_may_be_named(cli: Cli, work: Path) -> None:
    (work / "save/fsrcnn-x4").rename(work / "mine")
    assert demo(cli, "photo.png", "--original", "nowhere").err.startswith("error: nowhere: no such model")
    outcome = demo(cli, "photo.png", "--original", "mine")
    assert outcome.code == 0 and "original model: mine\n" in outcome.out
    assert (work / "results/demo/photo/original.png").exists()
    for options, message in (
        (["--original", "save/pcsr"], "save/pcsr: not an original model"),
        (["--original", "mine", "--scale", 2], "mine: an original model of x4 only"),
        (["--original", "mine", "--upscale"], "--original: is for a comparison"),
        (["--original", "mine", "--model", "mine"], "--original: goes with a PCSR model"),
        (["--opacity", 1, "--model", "mine"], "--opacity: is for the assignment of a PCSR model"),
    ):
        refused = demo(cli, "photo.png", *options)
        assert refused.code == 2 and message in refused.err


def test_a_precision_is_that_of_both_models(cli: Cli, work: Path) -> None:
    for precision in ("float32", "bfloat16"):
        assert demo(cli, "photo.png", "--precision", precision, "--out_dir", precision).code == 0
    for name in ("original.png", "pcsr.png"):
        exact, coarse = (read_image(work / of / "photo" / name).pixels.astype(int) for of in ("float32", "bfloat16"))
        assert 0 < np.abs(exact - coarse).max() < 9, name


def test_original_model_alone(cli: Cli, work: Path) -> None:
    """Simulated and shown without PCSR, and upscaling at its own scale, which nobody has to say."""
    outcome = cli("demo.py", "--model", "save/fsrcnn-x4", "--img_path", "photo.png", "--json")
    assert outcome.code == 0 and outcome.err == "", outcome.err
    folder = work / "results" / "demo" / "photo"
    assert {path.stem for path in folder.glob("*.png")} == {"hr", "lr", "bicubic", "original", "comparison"}
    assert [row["setting"] for row in json.loads(outcome.out.splitlines()[-1])] == [
        "bicubic",
        "original",
    ]
    shown = read_image(folder / "original.png").pixels
    options = ("--img_path", folder / "lr.png", "--upscale", "--out_dir", "out")
    outcome = cli("demo.py", "--model", "save/fsrcnn-x4", *options)
    assert outcome.code == 0 and outcome.err == "", outcome.err
    assert [path.name for path in (work / "out").iterdir()] == ["lr_x4.png"]
    assert np.abs(read_image(work / "out" / "lr_x4.png").pixels.astype(int) - shown).max() <= 1  # lr.png is rounded


def test_says_which_model_is_at_work(cli: Cli, work: Path) -> None:
    about = "PCSR on FSRCNN, 6,154 parameters, trained at x4 on train; computes in bfloat16"
    for options, warned in (["--scale", "2"], True), ([], False):
        options += ["--out_dir", "out", "--precision", "bfloat16"]
        outcome = demo(cli, "--img_path", "photo.png", "--upscale", *options)
        assert outcome.code == 0 and outcome.out.splitlines()[0] == about
        warning = "warning: trained at x4; at x2 a model trained for that would do better\n"
        assert outcome.err == (warning if warned else "")


def test_from_any_folder(cli: Cli, tmp_path: Path) -> None:
    """The weights are found beside the script; those of the working folder come first."""
    (tmp_path / "configs").unlink()
    write_image(tmp_path / "photo.png", photo(9, 12))
    for model in [], ["--model", "save/fsrcnn-pcsr-phase1"]:
        outcome = cli("demo.py", "photo.png", "--upscale", "--overwrite", *model)
        assert outcome.code == 0 and (tmp_path / "results/demo/photo_x4.png").is_file(), outcome.err
    save_tiny(tmp_path / "save" / "fsrcnn-pcsr-phase1", TINY_PCSR)
    assert "6,154 parameters" in cli("demo.py", "photo.png", "--upscale", "--overwrite", *model).out


def test_several_settings_get_a_file_each(cli: Cli, work: Path) -> None:
    outcome = demo(cli, "--img_path", "photo.png", "--upscale", "--k", "0", "1", "--adaptive", "--out_dir", "out")
    assert outcome.code == 0, outcome.err
    written = {path.name for path in (work / "out").glob("*.png")}
    assert written == {f"photo_x4_{name}.png" for name in ("k=0", "k=1", "adaptive")}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "16", "16A", "16L"])
@pytest.mark.parametrize("scale", [4, 2.5])
def test_upscale_keeps_what_the_file_was(mode: str, scale: float, cli: Cli, work: Path) -> None:
    path = work / "in.png"
    picture = photo(11, 14)
    alpha = np.full((11, 14), 200, np.uint8)
    if mode.startswith("16"):
        deep = picture.astype(np.uint16) * 257
        write_image(
            path, deep[:, :, 0] if mode == "16L" else deep, alpha.astype(np.uint16) * 257 if "A" in mode else None
        )
    else:
        file = Pillow.fromarray(np.dstack([picture, alpha]))
        file.convert("RGB").quantize(16).save(path) if mode == "P" else file.convert(mode).save(path)
    outcome = demo(cli, "--img_path", "in.png", "--upscale", "--scale", scale, "--out_dir", "out")
    assert outcome.code == 0, outcome.err
    before, after = read_image(path), read_image(work / "out" / f"in_x{scale:g}.png")
    assert after.pixels.shape == (round(11 * scale), round(14 * scale), 3)
    assert (after.bits, after.alpha is None) == (before.bits, before.alpha is None)
    assert after.gray == before.gray
    if after.alpha is not None:
        assert (after.alpha == before.alpha.max()).all()  # type: ignore[union-attr]
    shrunk = after.pixels.astype(float).mean() / before.pixels.astype(float).mean()
    assert shrunk == pytest.approx(1, abs=0.1)


BAD = ["missing", "text", "truncated", "zero bytes"]


@pytest.mark.parametrize(
    "kind,mode", [*product(BAD, ([], ["--upscale"])), ("one pixel", [])]
)  # upscaled, any size will do
def test_bad_images(kind: str, mode: list[str], cli: Cli, work: Path) -> None:
    path = work / "bad.png"
    content = (work / "photo.png").read_bytes()
    if kind == "one pixel":
        write_image(path, np.zeros((1, 1, 3), np.uint8))
    elif kind != "missing":
        path.write_bytes({"text": b"hello", "truncated": content[: len(content) // 2], "zero bytes": b""}[kind])
    assert_refused(demo(cli, "--img_path", "bad.png", *mode), "bad.png", work)


@pytest.mark.parametrize(
    "args,message",
    [
        (["--scale", "0"], "scale 0: must be a number from 1 to 65536"),
        (["--scale", "-4", "--upscale"], "scale -4: must be a number from 1 to 65536"),
        (["--scale", "1e308", "--upscale"], "scale 1e+308: must be a number from 1 to 65536"),
        (["--upscale", "--quality", "50"], "--quality: a png has none; add --format jpg or webp"),
        (["--scale", "nan"], "scale nan: must be a number from 1 to 65536"),
        (["--budget", "7"], "budget 7: must lie above 0"),
        (["--k", "nan"], "k must be a number, not nan"),
        *[
            (["--model", "save/fsrcnn-x4", *options], f"{options[0]}: save/fsrcnn-x4 is an original model")
            for options in (["--k", "0"], ["--budget", "0.5"], ["--adaptive"], ["--no_refinement"])
        ],
        (
            ["--model", "save/fsrcnn-x4", "--upscale", "--assignment"],
            "--assignment: save/fsrcnn-x4 is an original",
        ),
        (["--k", "0", "photo.png"], "--k: 'photo.png' is not a number; the option takes all words that follow"),
        (["--model", "save/fsrcnn-x4", "--upscale", "--scale", "2"], "this original model does x4 only"),
        (["--model", "photo.png"], "photo.png"),
        (["--upscale", "--scale", "6e4"], "more than"),
        (["--opacity", "2"], "--opacity 2"),
        (["--upscale", "--opacity", "0.9"], "--opacity: is for the image of --assignment"),
        (["--config", "configs/carn-pcsr-phase1.yaml"], "holds another model"),
    ],
)
def test_bad_options(args: list[str], message: str, cli: Cli, work: Path) -> None:
    assert_refused(demo(cli, "--img_path", "photo.png", *args), message, work)


def assert_refused(outcome: Outcome, message: str, work: Path) -> None:
    assert outcome.code == 2
    (error,) = [line for line in outcome.err.splitlines() if not line.startswith("warning: trained at x4")]
    assert error.startswith("error: ") and message in error and len(error) <= 300
    assert not (work / "results").exists()


def test_hidden_colours_do_not_bleed(cli: Cli, work: Path) -> None:
    """A gray disc whose transparent surroundings are green underneath comes out without a green rim."""
    y, x = np.mgrid[:24, :24] - 11.5
    alpha = np.where(x**2 + y**2 < 64, 255, 0).astype(np.uint8)
    picture = np.where(alpha[:, :, None] > 0, np.uint8(128), np.array([0, 255, 0], np.uint8))
    write_image(work / "disc.png", picture, alpha)
    assert demo(cli, "--img_path", "disc.png", "--upscale", "--out_dir", "out").code == 0
    after = read_image(work / "out" / "disc_x4.png")
    assert after.alpha is not None
    seen = after.pixels[after.alpha > 0].astype(int)
    assert (seen[:, 1] - seen[:, 0]).max() < 40


def test_a_simulation_says_what_it_leaves_out(cli: Cli, work: Path) -> None:
    frames = [Pillow.fromarray(photo(50, 70, seed)).convert("RGBA") for seed in range(2)]
    frames[0].putalpha(128)
    frames[0].save(work / "a.png", save_all=True, append_images=frames[1:])
    note = "note: a.png: the first of 2 frames is taken, the others are left out; its transparency is left out\n"
    assert demo(cli, "a.png").err == note
    Pillow.fromarray(photo(50, 70)).save(work / "b.jpg")
    (work / "b.jpg").write_bytes((work / "b.jpg").read_bytes()[:-40])
    assert "; --accept_damaged takes what" in demo(cli, "b.jpg").err
    accepted = demo(cli, "b.jpg", "--accept_damaged")
    assert accepted.code == 0 and accepted.err.startswith("note: b.jpg: damaged (")


@pytest.mark.parametrize("options", [["--format", "jpg"], ["--overwrite"], ["--quality", 50], ["--suffix=-big"]])
def test_options_of_upscaling_do_not_go_with_a_simulation(cli: Cli, work: Path, options: list[object]) -> None:
    refused = demo(cli, "photo.png", *options)
    assert refused.code == 2 and "goes with --upscale" in refused.err and not (work / "results").exists()


def test_upscaling_waits_for_no_tables() -> None:
    code = "import sys, demo; assert 'pandas' not in sys.modules and 'evaluation.simulate' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
