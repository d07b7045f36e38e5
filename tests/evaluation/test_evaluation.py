import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.folder import PairedFolder
from evaluation.metrics import PsnrType, psnr, ssim
from models.checkpoint import load_model
from models.fast.engine import Engine
from models.pcsr import PCSR
from models.tile import Tile
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, Outcome, make_folder, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import to_tensor
from utils.resize import downscale, imresize

KEYS = [
    *("dataset", "images", "scale", "setting", "psnr", "ssim", "heavy_share"),
    *("flops_paper", "flops_executed", "seconds"),
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_folder(tmp_path / "hr", [(61, 83), (48, 40)])
    save_tiny(tmp_path / "save" / "pcsr", TINY_PCSR)
    save_tiny(tmp_path / "save" / "original", TINY_ORIGINAL)
    save_tiny(tmp_path / "save" / "phase0", TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    return tmp_path


@pytest.mark.parametrize(("kind", "suffix"), [("rgb", ""), ("y", "-y")])
def test_original_numbers_are_what_the_files_say(kind: PsnrType, suffix: str, cli: Cli, work: Path) -> None:
    args = ("--model", "save/original", "--hr_data", "hr", "--per_image", "--save_images", "--json")
    outcome = cli("test.py", *args, "--psnr_type", kind)
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out.splitlines()[-1])
    assert len(summary) == 1 and list(summary[0]) == KEYS
    folder = work / "results" / "original" / f"hr-x4{suffix}"
    table = pd.read_csv(folder / "images.csv")
    for row in table.itertuples():
        sr = to_tensor(read_image(folder / "images" / "original" / f"{row.image}.png").pixels)
        hr = to_tensor(read_image(work / "hr" / f"{row.image}.png").pixels)[..., : sr.shape[2], : sr.shape[3]]
        assert row.psnr == pytest.approx(psnr(sr, hr, 4, kind), abs=1e-9)
        assert row.ssim == pytest.approx(ssim(sr, hr, 4, kind), abs=1e-9)
    assert summary[0]["psnr"] == pytest.approx(table["psnr"].mean())
    assert (folder / "curve.png").exists() and (folder / "summary.csv").exists()


def test_pcsr_settings_share_one_encoding(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, features = [], Engine.features

    def counting(engine: Engine, lr: torch.Tensor, tile: Tile) -> torch.Tensor:
        encoded.append(lr.shape)
        return features(engine, lr, tile)

    monkeypatch.setattr(Engine, "features", counting)
    decisions = ("--k", "-1", "0", "1", "--budget", "0.9", "1", "--adaptive")
    outcome = cli("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "hr", "--per_image", *decisions, "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])
    assert [row["setting"] for row in rows] == ["k=-1", "k=0", "k=1", "budget=0.9", "budget=1", "adaptive"]
    assert len(encoded) == 3  # a warm-up and two images
    by_name = {row["setting"]: row for row in rows}
    assert by_name["k=-1"]["flops_paper"] >= by_name["k=0"]["flops_paper"] >= by_name["k=1"]["flops_paper"]
    assert by_name["budget=1"]["heavy_share"] == 1
    full = by_name["budget=1"]["flops_paper"]
    assert by_name["budget=0.9"]["flops_paper"] == pytest.approx(0.9 * full, rel=0.01)
    assert all(row["flops_executed"] < row["flops_paper"] for row in rows)


@pytest.mark.parametrize("changes", [{"classifier": ()}, {"upsamplers": ((4,), (6, 6), (8, 8, 8))}])
def test_other_numbers_of_layers_and_upsamplers(
    changes: dict[str, object], cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier without hidden layer, three upsamplers: every rule, compiled and by torch."""
    save_tiny(work / "save" / "variant", TINY_PCSR.model_copy(update=changes))
    rules = ("--k", "-inf", "-1e0", "0", "1", "inf", "--budget", "0.9", "--adaptive", "--save_images", "--json")
    args = ("test_pcsr.py", "--model", "save/variant", "--hr_data", "hr", "--per_image", *rules)
    outcomes = [cli(*args)]
    monkeypatch.setattr("models.fast.engine.load_kernels", lambda: None)
    monkeypatch.setattr("inference.finish.load_kernels", lambda: None)
    outcomes.append(cli(*args))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    fast, plain = (pd.DataFrame(json.loads(outcome.out.splitlines()[-1])) for outcome in outcomes)
    heavy, *falling, light = plain["flops_paper"][:5]
    assert [heavy, *falling, light] == sorted([heavy, *falling, light], reverse=True) and heavy > light
    assert plain["flops_paper"][5] == pytest.approx(0.9 * heavy, rel=1e-3)
    assert plain["heavy_share"][0] == 1 and plain["heavy_share"][4] == 0
    pd.testing.assert_frame_equal(fast.drop(columns="seconds"), plain.drop(columns="seconds"), rtol=2e-3)  # near ties


@pytest.mark.parametrize("scale", ["1", "3.3"])
def test_any_scale(cli: Cli, work: Path, scale: str) -> None:
    outcome = cli("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "hr", "--per_image", "--scale", scale, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out.splitlines()[-1])[0]["scale"] == float(scale)


def test_patches_see_the_same_pixels_with_crop(cli: Cli, work: Path) -> None:
    common = ("--model", "save/pcsr", "--hr_data", "hr", "--crop", "--patch_size", "6", "--step", "4", "--json")
    whole = json.loads(cli("test_pcsr.py", *common, "--per_image", "--budget", "1").out.splitlines()[-1])[0]
    patches = json.loads(cli("test_pcsr.py", *common, "--budget", "1").out.splitlines()[-1])[0]
    model, _ = load_model(work / "save/pcsr")
    assert isinstance(model, PCSR)
    # LR 15x20 and 12x10 are cut to n * 4 + 6: 14x18 and 10x10; in patches 3x4 and 2x2 of 6x6
    expected = {"whole": (14 * 18 + 10 * 10) / 2, "patches": (12 * 36 + 4 * 36) / 2}
    for name, row in (("whole", whole), ("patches", patches)):
        pixels = expected[name]
        assert row["flops_paper"] == pytest.approx(model.flops.total(pixels, [0, 16 * pixels]).paper)


def test_lr_folder_equals_lr_made_from_hr(cli: Cli, work: Path) -> None:
    for path in (work / "hr").iterdir():
        hr = to_tensor(read_image(path).pixels)[..., : 60 if "0" in path.stem else 48, : 80 if "0" in path.stem else 40]
        lr = downscale(hr.double(), 4)
        write_image(work / "lr" / f"{path.stem}x4.png", (lr[0].permute(1, 2, 0) * 255).round().byte().numpy())
    common = ("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "hr", "--per_image", "--json")
    made = json.loads(cli(*common).out.splitlines()[-1])[0]
    given = json.loads(cli(*common, "--lr_data", "lr").out.splitlines()[-1])[0]
    floating = json.loads(cli(*common, "--float_lr").out.splitlines()[-1])[0]
    assert given["psnr"] == pytest.approx(made["psnr"], abs=1e-9)
    assert floating["psnr"] != made["psnr"]


def test_refinement_is_on_by_default(cli: Cli, work: Path) -> None:
    common = ("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "hr", "--per_image", "--budget", "0.9", "--json")
    refined = json.loads(cli(*common).out.splitlines()[-1])[0]
    plain = json.loads(cli(*common, "--no_refinement").out.splitlines()[-1])[0]
    assert refined["psnr"] != plain["psnr"] and refined["flops_paper"] == plain["flops_paper"]


def bad_image(folder: Path, kind: str) -> None:
    path = folder / "bad.png"
    folder.mkdir()
    write_image(path, photo(40, 40))
    content = path.read_bytes()
    if kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "one pixel":
        write_image(path, np.zeros((1, 1, 3), np.uint8))
    elif kind == "empty folder":
        path.unlink()


@pytest.mark.parametrize("kind", ["text", "truncated", "zero bytes", "one pixel", "empty folder"])
@pytest.mark.parametrize("script,model", [("test.py", "original"), ("test_pcsr.py", "pcsr")])
def test_bad_images(kind: str, script: str, model: str, cli: Cli, work: Path) -> None:
    bad_image(work / "bad", kind)
    make_folder(work / "bad", [(40, 40)])  # a good one before the bad one
    (work / "bad/img_0.png").rename(work / "bad/a.png")
    if kind == "empty folder":
        (work / "bad/a.png").unlink()
    args = ("--model", f"save/{model}", "--hr_data", "bad", "--per_image", "--save_images")
    assert_refused(cli(script, *args), "bad", work)


@pytest.mark.parametrize(
    "args,message",
    [
        (["--model", "save/none"], "no such model"),
        (["--model", "save/original"], "use test.py"),
        (["--config", "configs/carn-pcsr-phase1.yaml", "--model", "save/pcsr"], "holds another model"),
        (["--config", "configs/none.yaml"], "none.yaml"),
        ([], "--config or --model"),
        (["--model", "save/pcsr", "--scale", "0"], "scale 0: must be a number from 1 to 65536"),
        (["--model", "save/pcsr", "--scale", "-2"], "scale -2: must be a number from 1 to 65536"),
        (["--model", "save/pcsr", "--scale", "nan"], "scale nan: must be a number from 1 to 65536"),
        (["--model", "save/pcsr", "--scale", "inf"], "scale inf: must be a number from 1 to 65536"),
        (["--model", "save/pcsr", "--scale", "four"], "four"),
        (["--model", "save/pcsr", "--hr_data", "nowhere"], "nowhere"),
        (["--model", "save/pcsr", "--lr_data", "small"], "no LR image for img_1"),
        (["--model", "save/pcsr", "--lr_data", "hr"], "check the scale and the pairing"),
        (["--model", "save/pcsr", "--k", "nan"], "k must be a number, not nan"),
        (["--model", "save/pcsr", "--budget", "0.01"], "must lie between"),
        (["--model", "save/pcsr", "--budget", "nan"], "budget must be a number, not nan"),
        (["--model", "save/pcsr", "--device", "mps"], "not available"),
        (["--model", "save/pcsr", "--step", "40", "--crop"], "need 1 <= step <= patch_size"),
        (["--model", "save/pcsr", "--step", "9", "--per_image"], "--step: goes with patches; leave it or --per_image"),
        (["--model", "save/pcsr", "--frobnicate"], "--frobnicate"),
        (["--model", "save/pcsr", "--scale", "6e4", "--lr_data", "hr"], "check the scale"),
        (["--model", "save/phase0", "--adaptive"], "nothing to decide"),
        (["--model", "save/pcsr", "--lr_data", "hr", "--float_lr"], "--float_lr: is for LR that is made from HR"),
        (["--model", "save/pcsr", "--crop", "--scale", "1.1", "--patch_size", "6", "--step", "2"], "end within"),
        (["--model", "save/pcsr", "--out_dir", "hr"], "--out_dir hr: holds the images to evaluate"),
    ],
)
def test_bad_options(args: list[str], message: str, cli: Cli, work: Path) -> None:
    if message == "not available" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    make_folder(work / "small", [(12, 12)])
    data = [] if "--hr_data" in args else ["--hr_data", "hr"]
    assert_refused(cli("test_pcsr.py", "--per_image", *data, *args), message, work)


def assert_refused(outcome: Outcome, message: str, work: Path) -> None:
    assert outcome.code == 2
    (error,) = [line for line in outcome.err.splitlines() if not line.startswith("warning: trained at x4")]
    assert error.startswith("error: ") and message in error
    assert not (work / "results").exists()


def test_original_refuses_another_scale(cli: Cli, work: Path) -> None:
    outcome = cli("test.py", "--model", "save/original", "--hr_data", "hr", "--per_image", "--scale", "2")
    assert_refused(outcome, "scale 2", work)


def test_pairs_are_made_one_at_a_time(work: Path) -> None:
    pairs = PairedFolder(str(work / "hr"), None, 4)
    assert len(pairs) == 2
    first = next(iter(pairs))
    assert first.name == "img_0" and first.hr.shape == (1, 3, 60, 80) and first.lr.shape == (1, 3, 15, 20)


@pytest.mark.parametrize("scale", [2.5, 4, 3])
def test_stored_pairs_fit_at_any_scale(work: Path, scale: float) -> None:
    """HR that was cut to fit its LR, and HR that was not."""
    for pair in PairedFolder(str(work / "hr"), None, scale):
        for folder, image in (("cut", pair.hr), ("low", pair.lr)):
            write_image(work / folder / f"{pair.name}.png", (image[0].permute(1, 2, 0) * 255).round().byte().numpy())
    for folder in ("hr", "cut"):
        stored = list(PairedFolder(str(work / folder), str(work / "low"), scale))
        made = list(PairedFolder(str(work / "hr"), None, scale))
        assert all(torch.equal(a.hr, b.hr) and torch.equal(a.lr, b.lr) for a, b in zip(stored, made, strict=True))


def test_phase0_is_all_heavy(cli: Cli, work: Path) -> None:
    outcome = cli("test_pcsr.py", "--model", "save/phase0", "--hr_data", "hr", "--per_image", "--json")
    (row,) = json.loads(outcome.out.splitlines()[-1])
    assert (row["setting"], row["heavy_share"]) == ("heavy", 1)


def test_equal_settings_are_one(cli: Cli, work: Path) -> None:
    args = ("--model", "save/pcsr/model.safetensors", "--hr_data", "hr", "--per_image", "--k", "0", "0", "--json")
    (row,) = json.loads(cli("test_pcsr.py", *args).out.splitlines()[-1])
    assert row["images"] == 2
    assert (work / "results/pcsr/hr-x4/images.csv").exists()


def test_protocols_have_folders_of_their_own(cli: Cli, work: Path) -> None:
    given = ("--model", "save/pcsr", "--hr_data", "hr")
    for options in (["--no_refinement", "--psnr_type", "y"], ["--float_lr", "--crop"], ["--precision", "bfloat16"]):
        assert cli("test_pcsr.py", *given, "--per_image", *options).code == 0
    assert cli("test_pcsr.py", *given).code == 0
    folders = {path.name for path in (work / "results" / "pcsr").iterdir()}
    assert folders == {"hr-x4-y-unrefined", "hr-x4-crop-float", "hr-x4-bfloat16", "hr-x4-patches"}


def test_ambiguous_names_are_refused(work: Path) -> None:
    for folder, names in {"h": ["s1x2", "s1x3"], "l": ["s1x2", "s1x3"], "doubled": ["ax2", "ax3"]}.items():
        for seed, name in enumerate(names):
            write_image(work / folder / f"{name}.png", photo(16, 16, seed))
    pairs = list(PairedFolder(str(work / "h"), str(work / "l"), 1))
    assert all(torch.equal(pair.hr, pair.lr) for pair in pairs) and len(pairs) == 2
    write_image(work / "one" / "a.png", photo(16, 16))
    with pytest.raises(InputError, match="rename one"):
        PairedFolder(str(work / "one"), str(work / "doubled"), 1)
    write_image(work / "one" / "a.jpg", photo(16, 16))
    with pytest.raises(InputError, match="rename one"):
        PairedFolder(str(work / "one"), None, 1)


def test_bicubic(cli: Cli, work: Path) -> None:
    assert "--per_image" in cli("test.py", "--bicubic", "--hr_data", "hr").err
    idle = {"--model": "x", "--config": "x", "--tile_size": "9", "--precision": "bfloat16"}
    for option, value in idle.items():
        refused = cli("test.py", "--bicubic", "--hr_data", "hr", "--per_image", option, value)
        assert refused.err == f"error: --bicubic: takes no model; leave out {option}, or --bicubic\n"
    outcome = cli("test.py", "--bicubic", "--hr_data", "hr", "--per_image", "--scale", 2, "--save_images")
    again = cli("test.py", "--bicubic", "--hr_data", "hr", "--per_image", "--scale", 2, "--device", "cpu")
    assert again.code == 0 and again.err == ""  # as dist.sh gives the device
    assert outcome.code == 0 and "nan" not in outcome.out, outcome.err
    folder = work / "results" / "bicubic" / "hr-x2"
    hr = to_tensor(read_image(work / "hr" / "img_1.png").pixels)
    expected = imresize(downscale(hr, 2), (48, 40)).clamp(0, 1)
    sr = to_tensor(read_image(folder / "images" / "bicubic" / "img_1.png").pixels)
    assert float((sr - expected).abs().max()) < 0.51 / 255
    assert pd.read_csv(folder / "summary.csv")["psnr"][0] > 15
