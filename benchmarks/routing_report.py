"""The results of benchmarks/routing.py as a summary, a table for a terminal and a picture."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import protocol, title
from inference.visual import VERBATIM, figure_png

STYLES = {
    "random": "k:",
    "gradient": "C1--",
    "gradient alone": "C1-",
    "patches of 128": "C0:",
    "patches of 64": "C0--",
    "patches of 32": "C0-",
    "classifier": "C3-",
    "oracle by patches": "C7--",
    "oracle 9x9": "C7:",
    "oracle 3x3": "C7-.",
    "oracle": "C7-",
}
ENDS = ("all light", "all heavy")


def add_way(summary: pd.DataFrame) -> pd.DataFrame:
    """Add the share of the PSNR gap between random and oracle that each rule closes, on one data set."""
    low, high = (summary["share"].map(psnr) for psnr in span_of_way(summary))
    return summary.assign(way=(summary["psnr"] - low) / (high - low))


def span_of_way(summary: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The PSNR of random and of oracle by share, of one data set."""
    psnr = summary.set_index(["rule", "share"])["psnr"]
    return psnr["random"], psnr["oracle"]


def heavy_way(summary: pd.DataFrame) -> pd.Series:
    """How far all pixels heavy would be on the way at each share, of one data set: a classifier can hardly get further.

    It would have to tell where the light upsampler happens to be the better one.
    """
    low, high = span_of_way(summary)
    return (float(summary.loc[summary["rule"] == "all heavy", "psnr"].iloc[0]) - low) / (high - low)


def describe(summary: pd.DataFrame) -> str:
    """One data set for a terminal: PSNR and way of every rule at every share, the FLOPs of the shares, seconds."""
    ruled = summary[~summary["rule"].isin(ENDS)]

    def by_share(column: str, unit: float, form: str) -> pd.DataFrame:
        table = ruled.pivot_table(column, "rule", "share", sort=False, dropna=False) / unit
        return table.map(form.format).rename(columns=lambda share: f"{100 * share:.3g}%")

    reached = by_share("psnr", 1, "{:.3f}")
    for account in ("paper", "executed"):
        reached.loc[f"GFLOPs {account}"] = by_share(f"flops_{account}", 1e9, "{:.2f}").loc["classifier"]
    way = by_share("way", 0.01, "{:.1f}")
    way.loc["all heavy"] = (100 * heavy_way(summary)).map("{:.1f}".format).to_numpy()
    groups = {"PSNR dB": reached, "% of the way to the oracle": way}
    shown = pd.concat(groups, axis=1)
    shown["seconds", ""] = ruled.groupby("rule")["decision_seconds"].mean().map("{:.4f}".format)
    lines = []
    for end in summary[summary["rule"].isin(ENDS)].to_dict("records"):
        flops = f"{end['flops_paper'] / 1e9:.2f} / {end['flops_executed'] / 1e9:.2f} GFLOPs"
        lines.append(f"{end['rule']}: {end['psnr']:.3f} dB, {flops}")
    return "\n".join([title(summary), *lines, shown.fillna("").replace("nan", "-").to_string(index_names=False)])


@rc_context(VERBATIM)
def plot(summary: pd.DataFrame) -> bytes:
    """PSNR over the share of heavy pixels, with the FLOPs at the top; a panel for each data set, as PNG."""
    panels = list(summary.groupby("dataset", sort=False))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns + 1.6, 4.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (dataset, group) in zip(axes.flat, panels, strict=False):
        draw(axis, group)
        axis.set_title(f"{dataset}, {group['images'].iloc[0]} images", fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(f"{protocol(summary)}: who chooses the heavy pixels", fontsize=11)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure_png(figure, 110)


def draw(axis: Axes, group: pd.DataFrame) -> None:
    """One data set: a curve for each rule, and FLOPs in both accounts at the top."""
    for rule, style in STYLES.items():
        points = group[group["rule"] == rule]
        axis.plot(100 * points["share"], points["psnr"], style, marker=".", label=rule)
    for name in ENDS:
        level = float(group.loc[group["rule"] == name, "psnr"].iloc[0])
        axis.axhline(level, color="0.6", linewidth=0.8)
        axis.annotate(name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    axis.set_xlabel("heavy pixels, %")
    axis.set_ylabel("PSNR (dB)")
    axis.grid(alpha=0.3)
    spent = group[group["rule"] == "classifier"]
    top = axis.secondary_xaxis("top")
    flops = zip(spent["flops_paper"] / 1e9, spent["flops_executed"] / 1e9, strict=True)
    labels = [f"{paper:.3g}\n{executed:.3g}" for paper, executed in flops]
    top.set_xticks((100 * spent["share"]).tolist(), labels, fontsize=7)
    top.set_xlabel("GFLOPs per image, paper account over executed", fontsize=7)
