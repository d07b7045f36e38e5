"""Results never replace those of other data, weights or settings; several data sets and scales in one call."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image as Pillow

from datasets.folder import PairedFolder
from evaluation.command import run_one
from evaluation.record import images_record, incomparable, read_record, write_record
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, make_folder, photo, save_tiny
from utils.encode import write_image
from utils.errors import InputError
from utils.files import data_name


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_folder(tmp_path / "a/Set/HR", [(24, 28)])
    make_folder(tmp_path / "b/Set/HR", [(24, 28), (28, 24)])
    make_folder(tmp_path / "Other", [(32, 24)])
    save_tiny(tmp_path / "save/pcsr", TINY_PCSR)
    save_tiny(tmp_path / "save/original", TINY_ORIGINAL)
    return tmp_path


PCSR = ("test_pcsr.py", "--model", "save/pcsr", "--per_image")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("data/Test2K/HR", "Test2K"),
        ("data/Set5/LR/x4", "Set5"),
        ("data/Set5/LR_bicubic/X2.5/", "Set5"),
        ("data/Set5/GTmod12", "Set5"),
        ("data/Set5/HR/..", "Set5"),
        ("/data/Set14", "Set14"),
        ("data/DIV2K_valid_HR", "DIV2K_valid_HR"),
        ("../HR", "HR"),
    ],
)
def test_a_data_set_has_the_name_of_its_folder(folder: str, name: str) -> None:
    assert data_name(folder) == name


def test_the_folder_that_one_works_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_name(".") == tmp_path.name


def test_other_results_stay(cli: Cli, work: Path) -> None:
    """A folder for each data, weights and settings; the same again goes where it was."""
    results = work / "results/pcsr"
    first = cli(*PCSR, "--hr_data", "a/Set/HR")
    assert first.code == 0 and first.err == "", first.err
    kept = (results / "Set-x4/images.csv").read_bytes()
    outcome = cli(*PCSR, "--hr_data", "b/Set/HR")
    differ = "the folder of HR images, the HR images, the contents of the HR images; the new ones go to"
    assert f"note: results/pcsr/Set-x4 holds results that differ in {differ}" in outcome.err
    assert outcome.out.splitlines()[-1] == "written to results/pcsr/Set-x4-2"
    assert cli(*PCSR, "--hr_data", "b/Set/HR", "--k", 0).out.splitlines()[-1] == "written to results/pcsr/Set-x4-2"
    assert "differ in the settings" in cli(*PCSR, "--hr_data", "a/Set/HR", "--adaptive").err
    save_tiny(work / "save/pcsr", TINY_PCSR.model_copy(update={"width": 5}))
    assert "differ in the weights" in cli(*PCSR, "--hr_data", "a/Set/HR").err
    assert (results / "Set-x4/images.csv").read_bytes() == kept
    assert {path.name for path in results.iterdir()} == {"Set-x4", "Set-x4-2", "Set-x4-3", "Set-x4-4"}


def test_a_folder_that_was_named_is_refused(cli: Cli, work: Path) -> None:
    args = (*PCSR, "--hr_data", "a/Set/HR", "--out_dir", "out")
    assert [cli(*args).code, cli(*args).code] == [0, 0]
    outcome = cli(*args, "--psnr_type", "y")
    about = "out holds results that differ in the colours of PSNR (RGB or luma); give another out_dir"
    assert (outcome.code, outcome.err) == (2, f"error: {about}\n")
    (work / "out/record.json").unlink()  # results from before there were records
    for name in ("images.csv", "summary.csv", "curve.png"):
        assert "out holds results that do not say what they are of" in cli(*args).err
        (work / "out" / name).unlink()
    assert cli(*args).code == 0


def test_results_of_another_kind_stay(cli: Cli, work: Path) -> None:
    (work / "out").mkdir()
    (work / "out/record.json").write_text('{"folders": []}')
    (work / "out/summary.csv").write_text("of a comparison")
    outcome = cli(*PCSR, "--hr_data", "a/Set/HR", "--out_dir", "out")
    assert outcome.code == 2 and "out holds results that differ in" in outcome.err
    assert (work / "out/summary.csv").read_text() == "of a comparison"


def test_images_to_evaluate_are_never_replaced(cli: Cli, work: Path) -> None:
    hr = work / "images/original"
    make_folder(hr, [(32, 32)])
    before = {path: path.read_bytes() for path in hr.iterdir()}
    command = ("--per_image", "--save_images", "--hr_data", "images/original", "--out_dir", ".")
    outcome = cli("test.py", "--model", "save/original", *command)
    assert outcome.code == 2 and "--out_dir .: holds the images to evaluate" in outcome.err
    assert before == {path: path.read_bytes() for path in hr.iterdir()}
    write_image(hr / "img_0_assignment.png", photo(32, 32))
    clash = cli(*PCSR, "--per_image", "--save_images", "--hr_data", "images/original", "--out_dir", "out")
    assert "the assignment of img_0 would replace the result of img_0_assignment; rename one" in clash.err
    assert clash.code == 2 and not (work / "out").exists()


@pytest.mark.parametrize(("model", "setting"), [("pcsr", "k=0"), ("phase0", "heavy")])
def test_images_of_a_setting_are_never_replaced(model: str, setting: str, cli: Cli, work: Path) -> None:
    save_tiny(work / "save/phase0", TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    make_folder(work / "out/images" / setting, [(32, 32)])
    options = ("--save_images", "--hr_data", f"out/images/{setting}", "--out_dir", "out")
    outcome = cli("test_pcsr.py", "--model", f"save/{model}", "--per_image", *options)
    assert outcome.code == 2 and "--out_dir out: holds the images to evaluate" in outcome.err


def test_an_evaluation_at_the_same_time_takes_another_folder(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = []

    def meanwhile(*args: Any) -> pd.DataFrame:
        monkeypatch.setattr("evaluation.command.run_one", run_one)
        both.append(cli(*PCSR, "--hr_data", "Other", "--k", 1).code)
        return run_one(*args)

    monkeypatch.setattr("evaluation.command.run_one", meanwhile)
    both.append(cli(*PCSR, "--hr_data", "Other").code)
    assert both == [0, 0]
    check = PairedFolder.check

    def checked(pairs: PairedFolder) -> None:  # which decodes all images, before there are results
        monkeypatch.setattr(PairedFolder, "check", check)
        assert cli(*PCSR, "--hr_data", "a/Set/HR", "--k", 1).out.endswith("written to results/pcsr/Set-x4-2\n")
        check(pairs)

    monkeypatch.setattr(PairedFolder, "check", checked)
    assert cli(*PCSR, "--hr_data", "a/Set/HR", "--save_images").out.endswith("written to results/pcsr/Set-x4\n")
    for name, setting in (("Other-x4", "k=0"), ("Other-x4-2", "k=1")):
        folder = work / "results/pcsr" / name
        assert read_record(folder)["settings"] == pd.read_csv(folder / "images.csv")["setting"].tolist() == [setting]


def test_an_evaluation_that_fails_claims_no_folder(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise InputError("a reason")

    monkeypatch.setattr("evaluation.command.run_one", fails)
    assert cli(*PCSR, "--hr_data", "Other", "a/Set/HR").err.endswith("error: a reason\n")
    assert not list(work.rglob("record.json"))
    (work / "file").touch()
    assert "error: cannot write file/record.json" in cli(*PCSR, "--hr_data", "Other", "--out_dir", "file").err


def test_images_are_told_apart_by_their_content(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        Pillow.fromarray(photo(8, 8, seed=seed)).save(tmp_path / name / "a.bmp")
    records = [images_record("hr", str(tmp_path / each)) for each in ("one", "same", "other")]
    one, same, other = ({**record, "hr_data": ""} for record in records)
    assert one == same and incomparable(one, other) == ["hr_contents"]


def test_older_records_do_not_hold_the_contents_of_images(cli: Cli, work: Path) -> None:
    command = (*PCSR, "--hr_data", "a/Set/HR", "--out_dir", "out")
    assert cli(*command).code == 0
    record = read_record(work / "out")
    write_record(work / "out", {key: record[key] for key in record if not key.endswith("_contents")})
    assert not incomparable(record, read_record(work / "out"))
    assert cli(*command).code == 0 and read_record(work / "out") == record


def test_several_data_sets_and_scales(cli: Cli, work: Path) -> None:
    outcome = cli(*PCSR, "--hr_data", "b/Set/HR", "Other", "--scale", 2, 3, "--k", 0, 1, "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])
    assert [(row["dataset"], row["scale"], row["images"], row["setting"]) for row in rows] == [
        (dataset, scale, images, setting)
        for dataset, images in (("Set", 2), ("Other", 1))
        for scale in (2, 3)
        for setting in ("k=0", "k=1")
    ]
    assert outcome.out.count("PSNR") == 1  # one table
    for row in rows[::2]:
        alone = pd.read_csv(work / f"results/pcsr/{row['dataset']}-x{row['scale']:g}/summary.csv")
        assert alone["psnr"][0] == pytest.approx(row["psnr"])
    assert "warning: trained at x4; at x2, x3 a model" in outcome.err
    assert cli(*PCSR, "--hr_data", "b/Set/HR", "Other", "--out_dir", "out").code == 0
    assert {path.name for path in (work / "out").iterdir()} == {"Set-x4", "Other-x4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hr_data", "a/Set/HR", "--scale", "2.1234567", "2.1234568"], "--scale 2.12346: two values are the same"),
        (["--hr_data", "a/Set/HR", "b/Set/HR"], "a/Set/HR and b/Set/HR: data folders of the same name, Set, so that"),
        (["--hr_data", "a/Set/HR", "--hr_data", "a/Set/HR/"], "a/Set/HR/: named twice; name every folder once"),
        (["--hr_data", "a/Set/HR", "Other", "--lr_data", "Other"], "--lr_data: give one folder for each"),
        (["--hr_data", "Other", "--lr_data", "Other", "--scale", 1, 2], "--lr_data: give one folder for each"),
        (["--hr_data", "Other", "nowhere"], "nowhere: no such folder"),
        (["--hr_data", "Other", "--scale", 4, 0.5], "scale 0.5: must be"),
    ],
)
def test_nothing_is_evaluated_before_all_is_known_to_fit(
    options: list[object], message: str, cli: Cli, work: Path
) -> None:
    outcome = cli(*PCSR, *options)
    assert outcome.code == 2 and message in outcome.err and not (work / "results").exists()
    outcome = cli("test.py", "--model", "save/original", "--hr_data", "Other", "--scale", 4, 2)
    assert "scale 2: this original model does x4 only" in outcome.err and not (work / "results").exists()


@pytest.mark.parametrize("script", ["test.py", "test_pcsr.py"])
def test_the_first_line_says_which_protocol_runs(script: str, cli: Cli, work: Path) -> None:
    model = ("--model", "save/original" if script == "test.py" else "save/pcsr")
    first = cli(script, *model, "--hr_data", "Other", "--patch_size", 6, "--step", 4).out.splitlines()[0]
    assert first == "protocol: overlapping patches of 6x6 LR pixels, step 4, as published (whole images: --per_image)"
    first = cli(script, *model, "--hr_data", "Other", "--per_image").out.splitlines()[0]
    assert first == "protocol: whole images (without --per_image: overlapping patches, as published)"
    other = ("--per_image", "--crop", "--patch_size", 6, "--step", 4, "--psnr_type", "y", "--float_lr")
    second = cli(script, *model, "--hr_data", "Other", *other).out.splitlines()[0]
    assert second.removeprefix(first).split("; ")[1:] == [
        "LR cut to whole steps (--crop)",
        "PSNR and SSIM over luma (--psnr_type y)",
        "LR not rounded to 8 bits (--float_lr)",
    ]


def test_results_of_other_degradations_stay(cli: Cli, work: Path) -> None:
    """They have folders of their own, or are refused, and are not compared."""
    worse = ("--degrade", "jpeg=30", "noise=8")
    clean, degraded = cli(*PCSR, "--hr_data", "Other"), cli(*PCSR, "--hr_data", "Other", *worse)
    warning = "warning: trained on clean LR; on LR with noise=8 jpeg=30 a model trained for that would do better\n"
    assert (clean.code, clean.err, degraded.code, degraded.err) == (0, "", 0, warning)
    first = degraded.out.splitlines()[0]
    assert first == f"{clean.out.splitlines()[0]}; LR degraded by noise=8 jpeg=30"
    folders = ["results/pcsr/Other-x4", "results/pcsr/Other-x4-noise8-jpeg30"]
    assert degraded.out.splitlines()[-1] == f"written to {folders[1]}"
    scores = [pd.read_csv(work / folder / "images.csv")["psnr"][0] for folder in folders]
    assert scores[1] < scores[0]
    assert cli(*PCSR, "--hr_data", "Other", *worse).out.splitlines()[-1] == f"written to {folders[1]}"
    assert pd.read_csv(work / folders[1] / "images.csv")["psnr"][0] == scores[1]  # the same noise again
    for one, other in ((worse, ()), ((), worse), (("--degrade", "jpeg=31"), worse)):
        shutil.rmtree(work / "out", ignore_errors=True)
        assert cli(*PCSR, "--hr_data", "Other", "--out_dir", "out", *one).code == 0
        outcome = cli(*PCSR, "--hr_data", "Other", "--out_dir", "out", *other)
        message = "error: out holds results that differ in the degradation of LR; give another out_dir\n"
        assert outcome.err.endswith(message)
    refused = cli("evaluation/compare.py", *folders)
    assert "differs from results/pcsr/Other-x4 in the degradation of LR; their PSNR cannot be compared" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--degrade", "jpeg=75", "--lr_data", "Other"], "--degrade: is for 8-bit LR that is made from HR"),
        (["--degrade", "jpeg=75", "--float_lr"], "leave out --float_lr"),
        (
            ["--degrade", "jpeg=0"],
            "jpeg: must be a whole number from 1 to 100, or a range",
        ),
        (["--degrade"], "expected at least one argument"),
    ],
)
def test_degradations_that_make_no_sense(options: list[object], message: str, cli: Cli, work: Path) -> None:
    outcome = cli(*PCSR, "--hr_data", "Other", *options)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and message in outcome.err
