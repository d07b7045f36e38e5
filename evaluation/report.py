"""From rows to a report: CSV files, a printed table, a plot of PSNR over FLOPs, one line of JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from evaluation.evaluate import Row
from evaluation.tables import format_columns, table_json, write_csv
from utils.cli import run
from utils.files import write_atomic

REPORTS = ("images.csv", "summary.csv", "curve.png")
SUMMARY = ["psnr", "ssim", "heavy_share", "flops_paper", "flops_executed", "seconds"]  # --json has all of these


def image_table(rows: Sequence[Row], dataset: str, scale: float) -> pd.DataFrame:
    """One line per image and setting."""
    table = pd.DataFrame([asdict(row) for row in rows])
    table.insert(0, "dataset", dataset)
    table.insert(2, "scale", scale)
    return table


def summarise(images: pd.DataFrame) -> pd.DataFrame:
    """Means over the images, a line per setting, in the order in which they were given."""
    groups = images.groupby(["dataset", "scale", "setting"], sort=False)
    summary = groups.mean(numeric_only=True).reset_index()
    summary.insert(1, "images", groups.size().to_numpy())
    return summary


def original_share(summary: pd.DataFrame) -> "pd.Series[float]":
    """Mean FLOPs (paper account) relative to the original model's in the table.

    That is one of the same data, scale, backbone and patches.
    """
    same = [name for name in ("dataset", "scale", "backbone", "patches") if name in summary]
    paper, original = summary["flops_paper"], summary["setting"] == "original"
    return paper / paper.where(original).groupby([summary[name] for name in same]).transform("max")


def format_table(summary: pd.DataFrame) -> str:
    """The summary with units, for a terminal; whatever all rows have in common stands above the table."""
    common = ["dataset", "scale", "images"]
    several = len(summary[common].drop_duplicates()) > 1
    spent = summary["flops_paper"] > 0
    flops = ["flops_paper", "flops_paper_share", "original_share", "flops_executed"]
    shown = summary.assign(original_share=original_share(summary))
    shown["flops_paper_share"] = shown["flops_paper_share"].mask(summary["setting"] == "original")
    shown[["heavy_share", *flops]] = shown[["heavy_share", *flops]].where(spent)  # bicubic has no FLOPs
    names = [*(common if several else []), *(["model"] if "model" in summary else []), "setting", "psnr", "ssim"]
    table = format_columns(shown, [*names, "heavy_share", *flops, "seconds"])
    if several:
        return f"means per image\n{table}"
    first = summary.iloc[0]
    count = "" if first["images"] == 1 else f", {first['images']} images, means per image"
    return f"{first['dataset']}, x{first['scale']:g}{count}\n{table}"


def summary_json(summary: pd.DataFrame) -> str:
    """One line, a list with an object per setting."""
    lead = ["model"] if "model" in summary else []
    return table_json(summary[[*lead, "dataset", "images", "scale", "setting", *SUMMARY]])


def write_report(rows: Sequence[Row], dataset: str, scale: float, folder: Path) -> pd.DataFrame:
    """Write the REPORTS into a folder, each atomically; returns the summary."""
    images = image_table(rows, dataset, scale)
    summary = summarise(images)
    of_images, of_settings, curve = (folder / name for name in REPORTS)
    write_csv(of_images, images)
    write_csv(of_settings, summary)
    from evaluation.plot import plot_curve  # noqa: PLC0415 - takes long to import, and not all that import this draw

    write_atomic(curve, plot_curve(summary))
    return summary


if __name__ == "__main__":  # an earlier name of evaluation.differences
    from evaluation.differences import main

    run(main)
