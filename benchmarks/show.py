"""What benchmarks/inference.py measured, as a table for a terminal and as a picture."""

from io import BytesIO

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.ways import SETTINGS

KEYS = ["name", "seconds", "peak_mb", "flops_paper", "flops_executed"]  # what --json promises
MARKS = {
    "published": "*",
    "original eager": "s",
    "original channels-last": "v",
    "original onnxruntime": "^",
    "original openvino": "x",
    "ours onnxruntime": "+",
    "adaptive": "D",
}
CURVE = [name for name, setting in SETTINGS.items() if setting.rule == "k"]


def format_table(rows: pd.DataFrame) -> str:
    """The rows of one image, or means, with units; columns without a number are left out."""
    shown = pd.DataFrame(
        {
            "": rows["name"],
            "seconds": rows["seconds"].map("{:.3f}".format),
            "vs published": rows["vs_published"].map("{:.1f}x".format),
            "vs original": rows["vs_original"].map("{:.1f}x".format),
            "PSNR dB": rows["psnr"].map("{:.3f}".format),
            "peak MB": rows["peak_mb"].map("{:.0f}".format),
            "GFLOPs paper": (rows["flops_paper"] / 1e9).map("{:.2f}".format),
            "GFLOPs executed": (rows["flops_executed"] / 1e9).map("{:.2f}".format),
            "GFLOP/s": rows["gflops_per_second"].map("{:.0f}".format),
            "of peak %": (100 * rows["share_of_peak"]).map("{:.0f}".format),
        }
    )
    empty = {"PSNR dB": "psnr", "peak MB": "peak_mb"}
    shown = shown.drop(columns=[title for title, column in empty.items() if rows[column].isna().all()])
    return shown.to_string(index=False)


def plot(means: pd.DataFrame, title: str) -> bytes:
    """PSNR against seconds as PNG: ours a curve over k, all else a mark each."""
    points = means.set_index("name")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    ours = points.loc[CURVE]
    axis.plot(ours["seconds"], ours["psnr"], "o-", label="ours, over k")
    for name, row in points.drop(index=CURVE).iterrows():
        # hollow, as some lie over one another
        label = "ours, adaptive" if name == "adaptive" else str(name)
        axis.plot(row["seconds"], row["psnr"], MARKS[str(name)], markersize=9, markerfacecolor="none", label=label)
    for name, row in ours.iterrows():
        shift = (0, 7) if name == "k=0" else (6, -11)  # k=1 may be close
        axis.annotate(str(name), (row["seconds"], row["psnr"]), textcoords="offset points", xytext=shift, fontsize=8)
    axis.set_xlim(left=0)
    axis.margins(0.1)
    axis.set_xlabel("seconds per image")
    axis.set_ylabel("PSNR (dB)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_title(title, fontsize=10)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
