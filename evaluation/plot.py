"""PSNR over FLOPs: the curves of one evaluation or of several, with labels that do not collide."""

import math
from itertools import pairwise, product

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from inference.visual import VERBATIM, figure_png

STYLES = {"k": "o-", "budget": "s--", "adaptive": "*", "heavy": "^", "original": "D"}
BICUBIC = "bicubic"  # has no FLOPs in either account, so it gets a mark at the edge
WIDE = 8  # if FLOPs differ by a larger factor, a linear axis would squeeze the cheap settings: it is logarithmic
# places of a label around its point: distances in pixels, of which only the nearest needs no line, and directions
GAPS, DIRECTIONS = (6, 14, 24, 36, 50), 12
MARK = 5  # pixels that stay free around marks and curves


def plot_curve(summary: pd.DataFrame) -> bytes:
    """The figure of draw_curve, as PNG."""
    return figure_png(draw_curve(summary), 120)


@rc_context(VERBATIM)
def draw_curve(summary: pd.DataFrame) -> Figure:
    """PSNR against GFLOPs, both accounts side by side, a row of panels for each data set and scale.

    Models, where the table names any, differ by colour, and the rules of one model by their marks.
    """
    summary = summary if "model" in summary else summary.assign(model="")
    sets = list(summary.groupby(["dataset", "scale"], sort=False))
    models = summary["model"][summary["setting"] != BICUBIC].unique()
    colours = {str(name): f"C{index}" for index, name in enumerate(models)}
    figure = Figure(figsize=(10, 4.2 * len(sets)), layout="constrained")
    rows = figure.subplots(len(sets), 2, squeeze=False, sharey="row")
    panels: list[tuple[Axes, pd.DataFrame]] = []
    for (_, group), axes in zip(sets, rows, strict=True):
        first = group.iloc[0]
        count = "1 image" if first["images"] == 1 else f"{first['images']} images"
        axes[0].set_ylabel(f"PSNR (dB)\n{first['dataset']}, x{first['scale']:g}, {count}")
        for axis, account in zip(axes, ("paper", "executed"), strict=True):
            finite = group[np.isfinite(group["psnr"])]  # that of an image that is restored exactly is infinite
            panels.append((axis, finite.assign(gflops=finite[f"flops_{account}"] / 1e9)))
            axis.set_xlabel(f"GFLOPs per image, {account} account")
    shown: dict[str, Artist] = {}
    for axis, group in panels:
        draw(axis, group, colours)
        shown |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=max(1, min(3, len(shown))), fontsize=8
    )
    figure.draw_without_rendering()  # now all places are known
    for axis, group in panels:
        place_labels(axis, group, colours)
    return figure


def draw(axis: Axes, group: pd.DataFrame, colours: dict[str, str]) -> None:
    """The marks and curves of one data set."""
    rules = group["setting"].str.split("=", n=1).str[0]
    for names, rows in group.groupby(["model", rules], sort=False):
        model, rule = map(str, names)
        points, label = rows.sort_values("gflops"), ", ".join(filter(None, (model, rule)))
        if rule == BICUBIC:
            level, edge = float(points["psnr"].iloc[0]), axis.get_yaxis_transform()
            axis.plot(0, level, ">", color="black", transform=edge, clip_on=False, label=BICUBIC)
            axis.axhline(level, color="black", linestyle=":", linewidth=0.8)
        else:
            style, size = STYLES.get(rule, "o"), 10 if rule == "adaptive" else 5
            axis.plot(points["gflops"], points["psnr"], style, color=colours[model], markersize=size, label=label)
    spent = group["gflops"][group["gflops"] > 0]
    if len(spent) and spent.max() > WIDE * spent.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    axis.margins(0.12)


def place_labels(axis: Axes, group: pd.DataFrame, colours: dict[str, str]) -> None:
    """Label each setting that has a number, clear of marks, curves and other labels; without room there is no label."""
    if group.empty:
        return
    drawn = np.concatenate([dense(line.get_transform().transform(line.get_xydata())) for line in axis.lines])
    boxes: list[Bbox] = []
    numbered = group[group["setting"].str.contains("=")]
    for name, model, x, y in zip(*(numbered[key] for key in ("setting", "model", "gflops", "psnr")), strict=True):
        colour = colours[model]
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": colour}
        note = axis.annotate(name, (x, y), (x, y), arrowprops=line, fontsize=8, color=colour, ha="center", va="center")
        note.set_in_layout(False)
        box = note.get_window_extent()  # on its mark; the line has no length yet
        for gap, turn in product(GAPS, range(DIRECTIONS)):
            angle = math.tau * (turn + 1.5) / DIRECTIONS
            shift = math.cos(angle) * (box.width / 2 + gap), math.sin(angle) * (box.height / 2 + gap)
            place = box.translated(*shift)
            middle = place.corners().mean(axis=0)
            route = dense(np.stack([middle - shift, middle]))
            inside = axis.bbox.count_contains(place.corners()) == 4
            hit = place.count_overlaps(boxes) or any(other.count_contains(route) for other in boxes)
            if inside and not hit and not place.padded(MARK).count_contains(drawn):
                boxes.append(place.padded(1))
                drawn = np.concatenate([drawn, route])
                across, up = axis.transData.inverted().transform(middle)
                note.set_position((across, up))
                assert note.arrow_patch is not None
                note.arrow_patch.set_visible(gap > GAPS[0])
                break
        else:
            note.remove()


def dense(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along a path (n,2), close to each other."""
    steps = np.linspace(0, 1, 60)[:, None]
    return np.concatenate([path, *(a + (b - a) * steps for a, b in pairwise(path))])
