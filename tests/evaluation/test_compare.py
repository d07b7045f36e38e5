"""`python -m evaluation.compare FOLDER...`."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, Outcome, make_folder, save_tiny


@pytest.fixture
def evaluated(cli: Cli, tmp_path: Path) -> Path:
    """Results of bicubic, an original model and a PCSR model, refined and not, on two data sets."""
    for name, count in (("A", 1), ("B", 2)):
        make_folder(tmp_path / "data" / name, [(48, 52)] * count)
    save_tiny(tmp_path / "save/pcsr", TINY_PCSR)
    save_tiny(tmp_path / "save/original", TINY_ORIGINAL)
    common = ("--hr_data", "data/A", "data/B", "--per_image")
    pcsr = ("test_pcsr.py", "--model", "save/pcsr", *common, "--budget", 0.9, 1)
    runs = [("test.py", "--bicubic", *common), ("test.py", "--model", "save/original", *common), pcsr]
    runs += [(*pcsr, "--no_refinement"), (*pcsr, "--psnr_type", "y")]
    assert [cli(*each).code for each in runs] == [0] * 5
    return tmp_path


def compare(cli: Cli, *args: object) -> Outcome:
    return cli("evaluation/compare.py", *args)


def test_models_side_by_side(cli: Cli, evaluated: Path) -> None:
    folders = [f"results/{model}/A-x4" for model in ("bicubic", "original", "pcsr")]
    outcome = compare(cli, *folders, "--json")
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out.splitlines()[-1])
    settings = [("bicubic", "bicubic"), ("original", "original"), ("pcsr", "budget=0.9"), ("pcsr", "budget=1")]
    assert [(row["model"], row["setting"]) for row in rows] == settings
    assert all(row["ssim"] > 0 for row in rows) and "SSIM" in outcome.out
    for folder, row in zip(folders, rows, strict=False):
        assert row["psnr"] == pytest.approx(pd.read_csv(f"{folder}/summary.csv")["psnr"][0])
    share = f"{100 * rows[3]['flops_paper'] / rows[1]['flops_paper']:.1f}"  # of the original of the same backbone
    heading, *table = outcome.out.splitlines()[1:6]
    assert "of original %" in heading and share in table[3].split()
    assert {path.name for path in (evaluated / "results/compare").iterdir()} == {
        "curve.png",
        "record.json",
        "summary.csv",
    }


def test_flops_of_patches_are_not_compared_with_those_of_whole_images(cli: Cli, evaluated: Path) -> None:
    """Patches overlap, so that the same pixels are counted twice."""
    patches = ("--patch_size", 8, "--step", 6)
    assert cli("test.py", "--model", "save/original", "--hr_data", "data/A", *patches).code == 0

    def shares(*folders: str) -> list[str]:
        return [line.split()[-3] for line in compare(cli, *folders).out.splitlines()[2:]][: len(folders) + 1]

    whole, overlapping, pcsr = "results/original/A-x4", "results/original/A-x4-patches", "results/pcsr/A-x4"
    assert shares(overlapping, pcsr) == ["100.0", "-", "-"]
    assert shares(whole, overlapping, pcsr) == ["100.0", "100.0", *shares(whole, pcsr)[1:]]


def test_data_sets_stand_together_and_equal_models_are_told_apart(cli: Cli, evaluated: Path) -> None:
    folders = [f"results/pcsr/{each}" for each in ("A-x4", "B-x4", "A-x4-unrefined")]
    rows = json.loads(compare(cli, *folders, "--json").out.splitlines()[-1])
    assert [(row["dataset"], row["images"], row["model"]) for row in rows[::2]] == [
        ("A", 1, "pcsr (results/pcsr/A-x4)"),
        ("A", 1, "pcsr (results/pcsr/A-x4-unrefined)"),
        ("B", 2, "pcsr"),
    ]


def test_another_comparison_stays(cli: Cli, evaluated: Path) -> None:
    assert compare(cli, "results/pcsr/A-x4").out.endswith("written to results/compare\n")
    assert compare(cli, "results/pcsr/B-x4").out.endswith("written to results/compare-2\n")
    assert compare(cli, "results/pcsr/A-x4").out.endswith("written to results/compare\n")


def test_the_same_comparison_replaces_its_own(cli: Cli, evaluated: Path) -> None:
    """However its folders are named, and also when an evaluation in them was made again in another way, with a note."""
    one, two = "results/pcsr/A-x4", "results/original/A-x4"
    assert compare(cli, one, two).out.endswith("written to results/compare\n")
    for again in (one, two), (two, f"{one}/"), (evaluated / one, f"{two}/images.csv", two):
        outcome = compare(cli, *again, "--json")
        assert (outcome.code, outcome.err) == (0, "") and "written to results/compare\n" in outcome.out
        assert len(json.loads(outcome.out.splitlines()[-1])) == 3
    shutil.rmtree(evaluated / one)
    assert cli("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "data/A", "--per_image", "--k", 3).code == 0
    outcome = compare(cli, one, two)
    assert outcome.out.endswith("written to results/compare\n")
    note = "evaluations in these folders have changed since they were compared; results/compare is replaced"
    assert outcome.err == f"note: {note}\n"
    assert "k=3" in (evaluated / "results/compare/summary.csv").read_text()
    assert compare(cli, one, two).err == ""
    outcome = compare(cli, one)
    assert (
        "holds results that differ in the folders that are compared; the new ones go to results/compare-2"
        in outcome.err
    )


def test_results_without_a_record(cli: Cli, evaluated: Path) -> None:
    """From before there were records: the model is what the folder above says."""
    (evaluated / "results/pcsr/A-x4/record.json").unlink()
    rows = json.loads(compare(cli, "results/pcsr/A-x4", "results/original/A-x4", "--json").out.splitlines()[-1])
    assert [row["model"] for row in rows] == ["pcsr", "pcsr", "original"]


def test_an_image_that_is_restored_exactly(cli: Cli, evaluated: Path) -> None:
    table = evaluated / "results/bicubic/A-x4/images.csv"
    pd.read_csv(table).assign(psnr=math.inf).to_csv(table, index=False)
    (row,) = json.loads(compare(cli, table.parent, "--json").out.splitlines()[-1])
    assert row["psnr"] is None and "inf" in compare(cli, table.parent).out


def test_a_picture_of_the_user_stays(cli: Cli, evaluated: Path) -> None:
    (evaluated / "curve.png").write_text("mine")
    outcome = compare(cli, "results/pcsr/A-x4", "--out_dir", ".")
    assert outcome.code == 2 and (evaluated / "curve.png").read_text() == "mine"


def test_what_cannot_be_compared(cli: Cli, evaluated: Path) -> None:
    outcome = compare(cli, "results/pcsr/A-x4", "results/pcsr/A-x4-y")
    assert (
        "A-x4-y: differs from results/pcsr/A-x4 in the colours of PSNR (RGB or luma); their PSNR cannot be compared"
        in outcome.err
    )
    table = evaluated / "results/original/B-x4/images.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    assert "differs from results/pcsr/B-x4 in the images" in compare(cli, "results/pcsr/B-x4", table.parent).err
    several = (
        "error: results/pcsr: holds several results, A-x4, A-x4-unrefined, A-x4-y, 3 more; name those folders instead\n"
    )
    assert compare(cli, "results/pcsr").err == several
    assert cli("evaluation/report.py", "--compare", "results/pcsr", "results/pcsr").err == several
    assert "nowhere: No such file" in compare(cli, "nowhere").err
    table.write_text("dataset,image,scale,setting,psnr\nSet,a,4,k=0,30\n")
    assert "no column ssim" in compare(cli, table.parent).err
    assert not (evaluated / "results/compare").exists()
