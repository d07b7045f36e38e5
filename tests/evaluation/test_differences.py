"""`python -m evaluation.differences A B`."""

import json
import math
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.differences import interval
from tests.conftest import TINY_PCSR, Cli, Outcome, make_folder, save_tiny
from utils.files import output_file


def table(path: Path, psnr: dict[str, list[float]], dataset: str = "Set", first: int = 0) -> Path:
    """An images.csv; psnr per setting, of images called 007 and so on."""
    rows = [
        {"dataset": dataset, "image": f"00{number}", "scale": 4.0, "setting": setting, "psnr": value}
        for setting, values in psnr.items()
        for number, value in enumerate(values, first)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def report(cli: Cli) -> Cli:
    def call(*args: object) -> Outcome:
        return cli("evaluation/differences.py", *args)

    return call


def records(outcome: Outcome) -> list[dict[str, object]]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out.splitlines()[-1])


def test_differences_and_their_mean(report: Cli, tmp_path: Path) -> None:
    a = table(tmp_path / "a.csv", {"k=0": [30.0, 31.5, 28.0, 27.0], "k=1": [30, 31, 28, 27]})
    b = table(tmp_path / "b.csv", {"k=1": [30, 31, 28, 27], "k=0": [29.5, 31.0, 28.5, 26.0]})
    outcome = report("a.csv", "b.csv", "--csv", "out/differences.csv", "--json")
    first, second = records(outcome)
    assert (first["dataset"], first["scale"], first["images"], first["better"]) == ("Set", 4, 4, 3)
    assert first["psnr_a"] == 29.125 and first["psnr_b"] == 28.75 and first["difference"] == 0.375
    half = 3.18245 * 0.62915 / math.sqrt(4)  # Student's t of 3 degrees of freedom, standard deviation
    assert [first["low"], first["high"]] == pytest.approx([0.375 - half, 0.375 + half], abs=1e-4)
    assert [second[key] for key in ("setting_a", "setting_b", "difference", "low", "high", "better")] == [
        "k=1",
        "k=1",
        *[0.0] * 4,
    ]
    assert "+0.3750" in outcome.out and "+0.0000 .. +0.0000" in outcome.out
    images = pd.read_csv(tmp_path / "out/differences.csv", dtype={"image": str})
    assert images["image"].tolist() == ["000", "001", "002", "003"] * 2
    assert images["difference"].tolist() == [0.5, 0.5, -0.5, 1.0, 0, 0, 0, 0]
    assert records(report(a, b, "--json")) == [first, second]  # seeded
    swapped = records(report(b, a, "--json"))[1]
    assert swapped["difference"] == -0.375 and swapped["better"] == 1


def test_settings_of_one_file(report: Cli, tmp_path: Path) -> None:
    both = table(tmp_path / "both.csv", {"k=0": [30.0, 31.0], "k=1": [29.0, 30.5]})
    alone = table(tmp_path / "alone.csv", {"original": [28.0, 28.0]})
    (row,) = records(report(both, both, "--setting_a", "k=0", "--setting_b", "k=1", "--json"))
    assert row["difference"] == 0.75
    (row,) = records(report(both, alone, "--setting_a", "k=1", "--json"))  # the other has no choice
    assert (row["setting_b"], row["difference"]) == ("original", 1.75)


def test_one_image_has_no_interval(report: Cli, tmp_path: Path) -> None:
    one = table(tmp_path / "one.csv", {"k=0": [30.0]})
    (row,) = records(report(one, one, "--json"))
    assert row["low"] is None and row["high"] is None and row["difference"] == 0


def test_every_data_set_has_a_row(report: Cli, tmp_path: Path) -> None:
    tables = [
        pd.read_csv(table(tmp_path / "x.csv", {"k=0": [30.0, level]}, name)) for level, name in ((31, "A"), (32, "B"))
    ]
    pd.concat(tables).to_csv(tmp_path / "all.csv", index=False)
    assert [row["psnr_a"] for row in records(report("all.csv", "all.csv", "--json"))] == [30.5, 31]


@pytest.mark.parametrize("size", [3, 5, 14, 15, 100])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(size: int) -> None:
    rng = np.random.default_rng(1)
    intervals = [interval(rng.normal(0.02, 0.05, size)) for _ in range(60)]
    covered = [low <= 0.02 <= high for low, high in intervals]
    assert 50 <= sum(covered) <= 60
    width = math.sqrt(np.mean([(high - low) ** 2 for low, high in intervals]))
    quantile = {3: 4.30, 5: 2.78}.get(size, 1.96)  # Student's t, two-sided
    assert width == pytest.approx(2 * quantile * 0.05 / math.sqrt(size), rel=0.2)


def test_real_evaluations(cli: Cli, report: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "hr", [(48, 40), (40, 52), (44, 44)])
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    args = ("test_pcsr.py", "--model", "tiny", "--hr_data", "hr", "--per_image", "--budget", 0.9, 1, "--out_dir")
    assert cli(*args, "refined").code == cli(*args, "plain", "--no_refinement").code == 0
    outcome = report("refined/images.csv", "plain/images.csv", "--csv", "images.csv", "--json")
    mixed, heavy = records(outcome)
    assert mixed["difference"] != 0 and heavy["difference"] == 0  # where all is heavy, nothing is refined
    assert mixed["ssim_difference"] != 0 and heavy["ssim_difference"] == 0
    assert mixed["ssim_low"] < mixed["ssim_difference"] < mixed["ssim_high"]  # type: ignore[operator]
    assert f"{mixed['ssim_difference']:+.5f}" in outcome.out and "a - b SSIM" in outcome.out
    images = pd.read_csv("images.csv")
    assert images["ssim_difference"].to_numpy() == pytest.approx((images["ssim_a"] - images["ssim_b"]).to_numpy())
    assert (images["ssim_difference"][:3] > 0).sum() == mixed["ssim_better"]


def test_ssim_that_only_one_of_them_has(report: Cli, tmp_path: Path) -> None:
    first, second = (table(tmp_path / name, {"k=0": [30.0, 31.0]}) for name in ("a.csv", "b.csv"))
    pd.read_csv(first, dtype={"image": str}).assign(ssim=0.9).to_csv(first, index=False)
    outcome = report(first, second, "--json")
    assert records(outcome)[0]["difference"] == 0 and "ssim" not in outcome.out.lower()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "b.csv: not a readable CSV file"),
        ("a,b\n1,2\n", "b.csv: no column dataset, image, scale, setting, psnr; give the images.csv"),
        ("dataset,image,scale,setting,psnr\n", "b.csv: has no rows"),
        ("dataset,image,scale,setting,psnr\nSet,000,4,k=0,inf\n", "b.csv: no finite PSNR of Set/000 x4"),
        ("dataset,image,scale,setting,psnr\nSet,000,4,k=0,\n", "b.csv: no PSNR of Set/000 x4"),
        ("dataset,image,scale,setting,psnr\n" + "Set,000,4,k=0,30\n" * 2, "b.csv: more than one row of the same"),
        ("dataset,image,scale,setting,psnr\nSet,000,4,k=0,30\n", "b.csv: lacks Set/001 x4, Set/002 x4, Set/003 x4, 1"),
        ("dataset,image,scale,setting,psnr\nSet,000,2,k=0,30\n", "b.csv: lacks Set/000 x4, "),
        ("\n".join(["dataset,image,scale,setting,psnr", *(f"Set,00{n},4,k=0,30" for n in range(6))]), "a.csv: lacks "),
    ],
)
def test_files_that_cannot_be_compared(content: str, message: str, report: Cli, tmp_path: Path) -> None:
    table(tmp_path / "a.csv", {"k=0": [30.0] * 5})
    (tmp_path / "b.csv").write_text(content)
    assert_refused(report("a.csv", "b.csv", "--csv", "out.csv"), message)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["one.csv", "--setting_b", "k=1"], "two.csv: has several settings; give setting_a, one of: k=0 k=1"),
        (["one.csv"], "two.csv: has several settings; give setting_a, one of: k=0 k=1"),
        (["one.csv", "--setting_a", "k=7"], "setting_a k=7: two.csv has: k=0 k=1"),
        (["nowhere.csv"], "nowhere.csv: No such file or directory"),
        ([], "1 folders of results are given; give two"),
    ],
)
def test_bad_options(options: list[str], message: str, report: Cli, tmp_path: Path) -> None:
    table(tmp_path / "one.csv", {"k=1": [30.0]})
    table(tmp_path / "two.csv", {"k=0": [30.0], "k=1": [30.0]})
    assert_refused(report("two.csv", *options), message)


def assert_refused(outcome: Outcome, message: str) -> None:
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and message in outcome.err


def test_evaluations_of_other_images_or_protocols_are_refused(report: Cli, tmp_path: Path) -> None:
    """By the records beside them; what has none is compared."""
    plain = {"hr_images": "a", "psnr_type": "rgb", "model": "one", "refinement": True}
    for name, record in {
        "plain": plain,
        "model": {**plain, "model": "two", "refinement": False},
        "pictures": {**plain, "hr_images": "b"},
        "worse": {**plain, "degrade": "jpeg=30"},
        "none": {},
    }.items():
        (tmp_path / name).mkdir()
        table(tmp_path / name / "images.csv", {"k=0": [30.0, 31.0]})
        if record:
            (tmp_path / name / "record.json").write_text(json.dumps(record))
    for other in ("model", "none"):
        assert report("plain", f"{other}/images.csv").code == 0
    for other, what in (("pictures", "HR images"), ("worse", "degradation of LR")):
        differs = f"{other}/images.csv: differs from plain/images.csv in the {what}; their PSNR cannot be compared"
        for given in (("plain", other), ("plain/images.csv", f"{other}/images.csv")):
            assert report(*given).err == f"error: {differs}\n"


def test_no_other_file_is_replaced(report: Cli, tmp_path: Path) -> None:
    table(tmp_path / "images.csv", {"k=0": [30.0, 31.0]})
    (tmp_path / "README.md").write_text("a, b")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\x1a\n,")
    (tmp_path / "text.csv").write_text("a text")
    (tmp_path / "old.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").touch()
    for name, message in {
        "README.md": "the name must end in .csv",
        "image.csv": "exists and is no .csv file; give another name",
        "text.csv": "exists and is no .csv file; give another name",
        "text.csv/new.csv": "text.csv is no folder",
        "images.csv": "is one of the two files that are compared",
    }.items():
        there = tmp_path / name.removesuffix("/new.csv")
        before = there.read_bytes()
        outcome = report("images.csv", ".", "--csv", name)
        assert outcome.code == 2 and outcome.err.count("\n") == 1 and message in outcome.err
        assert there.read_bytes() == before
    with pytest.raises(ArgumentTypeError, match=r"old\.csv: the name must end in \.png"):
        output_file(".png")("old.csv")
    (tmp_path / "text.png").write_text("a, text")
    with pytest.raises(ArgumentTypeError, match=r"is no \.png file"):
        output_file(".png")(str(tmp_path / "text.png"))
    for name in ("old.csv", "empty.csv", "new.csv"):
        assert report("images.csv", ".", "--csv", name, "--csv", name).code == 0
        assert "difference" in (tmp_path / name).read_text()
