"""From results/readme/*.csv to the tables of both README.md and of docs/, between `<!-- table NAME -->` marks."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.routing_report import heavy_way
from models.build import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SETS = ("Set5", "Set14", "BSD100")
# names of test_pcsr.py's settings in the texts
CHOICES = {
    "budget=1": "all heavy (`--budget 1`)",
    "k=0": "`--k 0`",
    "adaptive": "`--adaptive`",
    "k=1": "`--k 1`",
    "k=inf": "all light (`--k inf`)",
}


def texts(root: Path) -> list[Path]:
    """The texts with tables."""
    pages = (root / "README.md", root / "save/README.md", *sorted(root.glob("docs/*.md")))
    return [path for path in pages if MARK.search(path.read_text())]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def read_summary(kept: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Means by model, data set and setting; and the backbones that have weights, with their titles."""
    summary = pd.read_csv(kept / "summary.csv").set_index(["model", "dataset", "setting"])
    models = set(summary.index.get_level_values("model"))
    return summary, {name: backbone.title for name, backbone in BACKBONES.items() if f"{name}-pcsr-phase1" in models}


def results(kept: Path, only: Sequence[str] = tuple(BACKBONES)) -> str:
    """PSNR on the benchmark sets, and FLOPs on the last one; of some backbones."""
    summary, backbones = read_summary(kept)
    rows = [["", *SETS, f"GFLOPs on {SETS[-1]}, paper", "executed"]]

    def add(title: str, model: str, setting: str) -> None:
        lines = [summary.xs((model, dataset, setting)) for dataset in SETS]
        last = lines[-1]
        paper = f"{last['flops_paper'] / 1e9:.2f}"
        share = "" if setting == "original" else f", {100 * last['flops_paper_share']:.0f} %"
        flops = [paper + share, f"{last['flops_executed'] / 1e9:.2f}"] if setting != "bicubic" else ["", ""]
        rows.append([title, *map(decibels_and_share, lines), *flops])

    add("bicubic (MATLAB's, antialiased)", "bicubic", "bicubic")
    for backbone, title in backbones.items():
        if backbone not in only:
            continue
        if f"{backbone}-x4" in summary.index:
            add(f"{title}, original model", f"{backbone}-x4", "original")
        for setting, name in CHOICES.items():
            add(f"PCSR-{title}, {name}", f"{backbone}-pcsr-phase1", setting)
    return markdown(rows)


def decibels_and_share(line: Any) -> str:
    """dB, and the share of heavy pixels if there are both kinds."""
    mixed = 0 < line["heavy_share"] < 1
    return f"{line['psnr']:.2f}" + (f" ({100 * line['heavy_share']:.0f} % heavy)" if mixed else "")


def refinement(kept: Path) -> str:
    """The change of PSNR by refinement."""
    summary, backbones = read_summary(kept)
    rows = [["refined minus not, dB", *SETS]]
    for backbone, title in backbones.items():
        for setting in ("k=0", "k=1", "adaptive"):
            pcsr, psnr = f"{backbone}-pcsr-phase1", summary["psnr"]
            gains = [psnr[pcsr, name, setting] - psnr[f"{pcsr}-unrefined", name, setting] for name in SETS]
            rows.append([f"PCSR-{title}, {CHOICES[setting]}", *(f"{gain:+.4f}" for gain in gains)])
    return markdown(rows)


WAYS = {
    "published": "PCSR as published, `k = 0`",
    "original eager": "original model, torch",
    "original channels-last": "original, BatchNorm folded, channels-last",
    "original onnxruntime": "original, ONNX Runtime",
    "original openvino": "original, OpenVINO as it comes",
    "original openvino float32": "original, OpenVINO, float32",
    "original kernels": "original, this project's kernels",
    "ours onnxruntime": "ours, exported, ONNX Runtime, `k = 0`",
    "all heavy": "ours, all heavy",
    "30% heavy": "ours, 30 % heavy",
    "k=0": "ours, `--k 0`",
    "k=1": "ours, `--k 1`",
    "15% heavy": "ours, 15 % heavy",
    "adaptive": "ours, `--adaptive`",
    "all light": "ours, all light",
    "all heavy float16": "ours, all heavy, float16",
    "k=0 float16": "ours, `--k 0`, float16",
    "all light float16": "ours, all light, float16",
}


def speed(kept: Path, file: str) -> str:
    """The table of one run of benchmarks/inference.py, means over its images."""
    ways = pd.read_csv(kept / file).groupby("name", sort=False).mean(numeric_only=True)
    original = ways.loc[ways.index.str.startswith("original"), "seconds"]
    ways = ways.loc[[name for name in WAYS if name in ways.index]]
    seconds, gflops = ways["seconds"], ways[["flops_paper", "flops_executed"]] / 1e9
    columns = {
        "": ways.index.map(WAYS),
        "seconds": seconds.map("{:.2f}".format),
        "vs published": (seconds["published"] / seconds).map("{:.1f}x".format),
        "vs original in torch": (original.get("original eager", math.nan) / seconds).map("{:.1f}x".format),
        "vs original in the best runtime": (original.min() / seconds).map("{:.1f}x".format),
        "PSNR dB": ways["psnr"].map("{:.2f}".format),
        "peak MB": ways["peak_mb"].map("{:.0f}".format),
        "GFLOPs paper / executed": gflops.apply(lambda both: "{:.0f} / {:.0f}".format(*both), axis=1),
        "of the matrix product": (100 * ways["share_of_peak"]).map("{:.0f} %".format),
    }
    known = {
        name: [cell.replace("nan", "") for cell in cells]
        for name, cells in columns.items()
        if not all("nan" in cell for cell in cells)
    }
    return markdown([[*known], *zip(*known.values(), strict=True)])


def training(kept: Path) -> str:
    """Iterations per second of benchmarks/training.py."""
    measured = pd.read_csv(kept / "training.csv")
    ways = list(dict.fromkeys(measured["formulation"]))
    rows = [["it/s", *ways]]
    for job, lines in measured.groupby("job", sort=False):
        cells = {line.formulation: f"{line.it_per_s:.2f} ({line.speedup:.1f}x)" for line in lines.itertuples()}
        rows.append([str(job), *(cells.get(way, "") for way in ways)])
    return markdown(rows)


def routing(kept: Path) -> str:
    """PSNR of every rule at three shares of heavy pixels, a column for each data set."""
    measured = pd.read_csv(kept / "routing.csv")
    sets = list(dict.fromkeys(measured["dataset"]))
    shares = (0.05, 0.1, 0.3)
    rows = [["", *(f"{dataset}, heavy: {' / '.join(f'{share:.0%}' for share in shares)}" for dataset in sets)]]
    for rule, lines in measured.groupby("rule", sort=False):
        found = lines.set_index(["dataset", "share"])["psnr"]
        ends = str(rule).startswith("all ")
        cells = [found[dataset] if ends else found[dataset].loc[list(shares)] for dataset in sets]
        rows.append([str(rule), *(" / ".join(f"{psnr:.2f}" for psnr in cell) for cell in cells)])
    return markdown(rows)


def routing_way(kept: Path) -> str:
    """How far from random to oracle some rules go at three shares of heavy pixels, a column per data set."""
    measured = pd.read_csv(kept / "routing.csv")
    sets = {str(dataset): lines for dataset, lines in measured.groupby("dataset", sort=False)}
    shares = [0.1, 0.3, 0.5]
    rows = [["", *(f"{dataset}, heavy: {' / '.join(f'{share:.0%}' for share in shares)}" for dataset in sets)]]
    for rule in ("gradient", "classifier", "all heavy", "oracle 9x9", "oracle 3x3"):
        ways = [
            heavy_way(lines) if rule == "all heavy" else lines[lines["rule"] == rule].set_index("share")["way"]
            for lines in sets.values()
        ]
        rows.append([rule, *(" / ".join(f"{way:.0%}" for way in each.loc[shares]) for each in ways)])
    return markdown(rows)


def patchwise(kept: Path) -> str:
    """Patches against whole images on the sets that have larger ones."""
    measured = pd.read_csv(kept / "patchwise.csv")
    rows = [["", "patches", "PSNR dB", "at seams", "whole image there", "heavy", "FLOPs"]]
    for line in measured[measured["dataset"].isin(["Set14", "2K"])].to_dict("records"):
        psnrs = [f"{line[name]:.2f}".replace("nan", "") for name in ("psnr", "psnr_seams", "whole_seams")]
        ratios = [f"{100 * line['heavy_share']:.0f} %", f"{line['flops_paper_ratio']:.2f}x"]
        rows.append([line["dataset"], line["cut"], *psnrs, *ratios])
    return markdown(rows)


# the folders save/axis-NAME of docs/axes.md, and how their models differ
AXES = {
    "axis-phase1": "as published: M = 2, no hidden layer, weight 3",
    "axis-phase1-hidden": "classifier with hidden layer",
    "axis-phase1-m3": "M = 3",
    "axis-phase1-avg0": "`loss_avg_w` 0",
    "axis-phase1-avg10": "`loss_avg_w` 10",
}
SHARES = "(heavy, share of all-heavy FLOPs)"
SCALED = {"axis-scales": "trained at x4", "axis-scales-multiscale": "trained at x2 to x4"}


def axes(kept: Path) -> str:
    """Variants of phase 1 from the same phase 0, under three settings."""
    columns = [(dataset, setting) for dataset in ("Set5", "Set14") for setting in ("k=0", "k=1", "adaptive")]
    heads = {f"{dataset}, {setting}": (dataset, 4.0, setting) for dataset, setting in columns}
    return variants(kept / "axes.csv", f"dB {SHARES}", AXES, heads)


def scales(kept: Path) -> str:
    """A model trained at one scale and one trained at a range, at four scales."""
    heads = {f"x{scale:g}": ("Set14", scale, "k=0") for scale in (2.0, 2.5, 3.0, 4.0)}
    return variants(kept / "axes-scales.csv", f"Set14, `k = 0`, dB {SHARES}", SCALED, heads)


def variants(file: Path, about: str, titles: dict[str, str], heads: dict[str, tuple[str, float, str]]) -> str:
    """A row for each model, a column for each data set, scale and setting."""
    measured = pd.read_csv(file).set_index(["model", "dataset", "scale", "setting"])
    lines = [[reached(measured.xs((name, *column))) for column in heads.values()] for name in titles]
    return markdown([[about, *heads], *([title, *row] for title, row in zip(titles.values(), lines, strict=True))])


def reached(line: Any) -> str:  # a row, for which pandas has no type
    return f"{line['psnr']:.2f} ({100 * line['heavy_share']:.0f} %, {100 * line['flops_paper_share']:.0f} %)"


TABLES: dict[str, Callable[[Path], str]] = {
    "results": results,
    "results-best": partial(results, only=("carn", "softgate")),
    "refinement": refinement,
    "speed": partial(speed, file="inference.csv"),
    "speed-fsrcnn": partial(speed, file="inference-fsrcnn.csv"),
    "speed-softgate": partial(speed, file="inference-softgate.csv"),
    "speed-softgate-avx2": partial(speed, file="inference-softgate-avx2.csv"),
    "speed-srresnet": partial(speed, file="inference-srresnet.csv"),
    "training": training,
    "axes": axes,
    "scales": scales,
    "routing": routing,
    "routing-way": routing_way,
    "patchwise": patchwise,
}


def fill(text: str, kept: Path) -> str:
    """A text with all its tables made anew from the CSV files in `kept`. Raises KeyError for a table not known."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]](kept) + found[3], text)
