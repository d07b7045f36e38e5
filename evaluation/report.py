"""From rows to what people read: CSV files, a printed table, a PSNR-FLOPs plot, one line of JSON.

python -m evaluation.report --compare A B    two evaluations of the same images: by how much their PSNR differs
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evaluation.evaluate import Row
from evaluation.tables import figure_png, format_columns, table_json, write_csv
from utils.errors import Parser, run
from utils.files import write_atomic

SUMMARY = ["psnr", "ssim", "heavy_share", "flops_paper", "flops_executed", "seconds"]  # what --json promises


def image_table(rows: Sequence[Row], dataset: str, scale: float) -> pd.DataFrame:
    """One line per image and setting."""
    table = pd.DataFrame([asdict(row) for row in rows])
    table.insert(0, "dataset", dataset)
    table.insert(2, "scale", scale)
    return table


def summarise(images: pd.DataFrame) -> pd.DataFrame:
    """Means per image, a line per setting in the order they were asked for."""
    groups = images.groupby(["dataset", "scale", "setting"], sort=False)
    summary = groups.mean(numeric_only=True).reset_index()
    summary.insert(1, "images", groups.size().to_numpy())
    return summary


def format_table(summary: pd.DataFrame) -> str:
    """The summary with units, for a terminal."""
    paper, original = summary["flops_paper"], summary["setting"] == "original"
    shares = {
        "flops_paper_share": summary["flops_paper_share"].mask(original),
        "original_share": paper / paper[original].max(),
    }
    bills = ["flops_paper", *shares, "flops_executed"]
    first = summary.iloc[0]
    count = "" if first["images"] == 1 else f", {first['images']} images, means per image"
    shown = format_columns(summary.assign(**shares), ["setting", "psnr", "ssim", "heavy_share", *bills, "seconds"])
    return f"{first['dataset']}, x{first['scale']:g}{count}\n{shown}"


def summary_json(summary: pd.DataFrame) -> str:
    """One line, a list with an object per setting."""
    return table_json(summary[["dataset", "images", "scale", "setting", *SUMMARY]])


def plot_curve(summary: pd.DataFrame) -> bytes:
    """PSNR against GFLOPs, both accounts side by side, as PNG."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, account in zip(axes, ("paper", "executed"), strict=True):
        flops = summary[f"flops_{account}"] / 1e9
        for rule, group in summary.groupby(summary["setting"].str.partition("=")[0], sort=False):  # a curve per rule
            points = pd.DataFrame({"flops": flops[group.index], "psnr": group["psnr"]}).sort_values("flops")
            axis.plot(points["flops"], points["psnr"], marker="o", label=str(rule))
        for x, y, name in zip(flops, summary["psnr"], summary["setting"], strict=True):
            # k below its curve and the other rules above, so that they can be told apart where they coincide
            place, side = ((4, -11), "left") if name.startswith("k=") else ((-4, 5), "right")
            axis.annotate(name, (x, y), textcoords="offset points", xytext=place, ha=side, fontsize=8)
        axis.set_xlabel(f"GFLOPs per image, {account} account")
        axis.grid(alpha=0.3)
        axis.margins(0.15)
    axes[0].set_ylabel("PSNR (dB)")
    axes[0].legend(fontsize=8)
    first = summary.iloc[0]
    figure.suptitle(f"{first['dataset']}, x{first['scale']:g}, {first['images']} images", fontsize=10)
    return figure_png(figure, 120)


def write_report(rows: Sequence[Row], dataset: str, scale: float, folder: Path) -> pd.DataFrame:
    """Write images.csv, summary.csv and curve.png into a folder, each atomically; returns the summary."""
    images = image_table(rows, dataset, scale)
    summary = summarise(images)
    write_csv(folder / "images.csv", images)
    write_csv(folder / "summary.csv", summary)
    write_atomic(folder / "curve.png", plot_curve(summary))
    return summary


def main() -> None:
    # scipy.stats takes a second to import, which evaluations need not wait for
    from evaluation.compare import compare, format_comparison, summarise_differences  # noqa: PLC0415

    parser = Parser(description="Compare the PSNR of two evaluations of the same images, image by image.")
    parser.add_argument(
        "--compare", type=Path, nargs=2, required=True, metavar=("A", "B"), help="their images.csv; may be the same"
    )
    for name in "ab":
        parser.add_argument(
            f"--setting_{name}", help=f"of {name.upper()}, such as k=0 (default: its only one, or each with its like)"
        )
    parser.add_argument("--csv", type=Path, help="file to write: the differences image by image")
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    args = parser.parse_args()
    first, second = args.compare
    images = compare(first, second, args.setting_a, args.setting_b)
    summary = summarise_differences(images)
    print(format_comparison(summary))
    if args.csv:
        write_csv(args.csv, images)
        print(f"written to {args.csv}")
    if args.json:
        print(table_json(summary))


if __name__ == "__main__":
    run(main)
