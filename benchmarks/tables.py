"""From results/readme/*.csv to the tables of both README.md and of docs/, between `<!-- table NAME -->` marks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SETS = ("Set5", "Set14", "BSD100")
# how test_pcsr.py's settings are called where people read about them
CHOICES = {
    "budget=1": "all heavy (`--budget 1`)",
    "k=0": "`--k 0`",
    "adaptive": "`--adaptive`",
    "k=1": "`--k 1`",
    "k=inf": "all light (`--k inf`)",
}
BACKBONES = {"carn": "CARN", "fsrcnn": "FSRCNN", "srresnet": "SRResNet"}


def texts(root: Path) -> list[Path]:
    """The texts that have tables in them."""
    pages = (root / "README.md", root / "save/README.md", *sorted(root.glob("docs/*.md")))
    return [path for path in pages if MARK.search(path.read_text())]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def results(kept: Path) -> str:
    """PSNR on the benchmark sets, and FLOPs of the last one."""
    summary = pd.read_csv(kept / "summary.csv").set_index(["model", "dataset", "setting"])
    last = SETS[-1]
    rows = [["", *SETS, f"GFLOPs on {last}, paper", "executed"]]
    rows.append(["bicubic (MATLAB's, antialiased)", *psnrs(summary, "bicubic", "bicubic"), "", ""])
    models = set(summary.index.get_level_values("model"))
    for backbone, title in BACKBONES.items():
        original, pcsr = f"{backbone}-x4", f"{backbone}-pcsr-phase1"
        if pcsr not in models:
            continue
        flops = summary.xs((original, last, "original"))
        spent = [f"{flops[account] / 1e9:.2f}" for account in ("flops_paper", "flops_executed")]
        rows.append([f"{title}, original model", *psnrs(summary, original, "original"), *spent])
        for setting, name in CHOICES.items():
            line = summary.xs((pcsr, last, setting))
            paper = f"{line['flops_paper'] / 1e9:.2f}, {100 * line['flops_paper_share']:.0f} %"
            spent = [paper, f"{line['flops_executed'] / 1e9:.2f}"]
            rows.append([f"PCSR-{title}, {name}", *psnrs(summary, pcsr, setting), *spent])
    return markdown(rows)


def psnrs(summary: pd.DataFrame, model: str, setting: str) -> list[str]:
    """A cell per set: dB, and the share of heavy pixels where pixels are told apart."""
    cells = []
    for dataset in SETS:
        line = summary.xs((model, dataset, setting))
        mixed = 0 < line["heavy_share"] < 1
        cells.append(f"{line['psnr']:.2f}" + (f" ({100 * line['heavy_share']:.0f} % heavy)" if mixed else ""))
    return cells


def refinement(kept: Path) -> str:
    """What refinement does to PSNR."""
    summary = pd.read_csv(kept / "summary.csv").set_index(["model", "dataset", "setting"])["psnr"]
    rows = [["refined minus not, dB", *SETS]]
    for backbone, title in BACKBONES.items():
        pcsr = f"{backbone}-pcsr-phase1"
        if pcsr not in summary.index.get_level_values("model"):
            continue
        for setting in ("k=0", "k=1", "adaptive"):
            gains = [summary[pcsr, name, setting] - summary[f"{pcsr}-unrefined", name, setting] for name in SETS]
            rows.append([f"PCSR-{title}, {CHOICES[setting]}", *(f"{gain:+.4f}" for gain in gains)])
    return markdown(rows)


WAYS = {
    "published": "PCSR as published, `k = 0`",
    "original eager": "original model, torch",
    "original channels-last": "original, BatchNorm folded, channels-last",
    "original onnxruntime": "original, ONNX Runtime",
    "original openvino": "original, OpenVINO",
    "ours onnxruntime": "ours, exported, ONNX Runtime, `k = 0`",
    "all heavy": "ours, all heavy",
    "30% heavy": "ours, 30 % heavy",
    "k=0": "ours, `--k 0`",
    "k=1": "ours, `--k 1`",
    "15% heavy": "ours, 15 % heavy",
    "adaptive": "ours, `--adaptive`",
    "all light": "ours, all light",
}


def speed(file: str) -> Callable[[Path], str]:
    """The table of one run of benchmarks/inference.py, means over its images."""

    def table(kept: Path) -> str:
        measured = pd.read_csv(kept / file)
        ways = measured.drop(columns=["image", "output"]).groupby("name", sort=False).mean()
        seconds = ways["seconds"]
        originals = seconds[[name for name in ways.index if name.startswith("original")]]
        trained = bool(ways["psnr"].notna().all())
        head = ["", "seconds", "vs published", "vs original in torch", "vs original in the best runtime"]
        rows = [
            [*head, *(["PSNR dB"] if trained else []), "peak MB", "GFLOPs paper / executed", "of the matrix product"]
        ]
        for name, way in ways.loc[[name for name in WAYS if name in ways.index]].iterrows():
            ratios = [seconds["published"], seconds["original eager"], originals.min()]
            rows.append(
                [WAYS[str(name)], f"{way['seconds']:.2f}", *(f"{ratio / way['seconds']:.1f}x" for ratio in ratios)]
            )
            rows[-1] += [f"{way['psnr']:.2f}"] if trained else []
            rows[-1] += [f"{way['peak_mb']:.0f}", f"{way['flops_paper'] / 1e9:.0f} / {way['flops_executed'] / 1e9:.0f}"]
            rows[-1] += [f"{100 * way['share_of_peak']:.0f} %"]
        return markdown(rows)

    return table


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
    """PSNR of every rule at three shares of heavy pixels, a column per data set."""
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


def patchwise(kept: Path) -> str:
    """Patches against whole images on the sets that have larger ones."""
    measured = pd.read_csv(kept / "patchwise.csv")
    rows = [["", "patches", "PSNR dB", "at seams", "whole image there", "heavy", "FLOPs"]]
    chosen = measured[measured["dataset"].isin(["Set14", "2K"])]
    shown = pd.DataFrame({"dataset": chosen["dataset"], "cut": chosen["cut"]})
    for column in ("psnr", "psnr_seams", "whole_seams"):
        shown[column] = chosen[column].map("{:.2f}".format).replace("nan", "")
    shown["heavy"] = (100 * chosen["heavy_share"]).map("{:.0f} %".format)
    shown["flops"] = chosen["flops_paper_ratio"].map("{:.2f}x".format)
    rows += shown.to_numpy().tolist()
    return markdown(rows)


# save/axis-NAME of docs/axes.md, and what it is
AXES = {
    "axis-phase1": "as published: M = 2, no hidden layer, weight 3",
    "axis-phase1-hidden": "classifier with hidden layer",
    "axis-phase1-m3": "M = 3",
    "axis-phase1-avg0": "`loss_avg_w` 0",
    "axis-phase1-avg10": "`loss_avg_w` 10",
}
SCALED = {"axis-scales": "trained at x4", "axis-scales-multiscale": "trained at x2 to x4"}


def axes(kept: Path) -> str:
    """Variants of phase 1 from the same phase 0, at three decisions."""
    measured = pd.read_csv(kept / "axes.csv").set_index(["model", "dataset", "setting"])
    columns = [(dataset, setting) for dataset in ("Set5", "Set14") for setting in ("k=0", "k=1", "adaptive")]
    rows = [["dB (heavy, share of all-heavy FLOPs)", *(f"{dataset}, {setting}" for dataset, setting in columns)]]
    for name, title in AXES.items():
        lines = [measured.xs((name, *column)) for column in columns]
        rows.append([title, *(reached(line) for line in lines)])
    return markdown(rows)


def scales(kept: Path) -> str:
    """A model trained at one scale and one trained at a range, at four scales."""
    measured = pd.read_csv(kept / "axes-scales.csv").set_index(["model", "scale", "setting"])
    columns = (2.0, 2.5, 3.0, 4.0)
    rows = [["Set14, `k = 0`, dB (heavy, share of all-heavy FLOPs)", *(f"x{scale:g}" for scale in columns)]]
    for name, title in SCALED.items():
        rows.append([title, *(reached(measured.xs((name, scale, "k=0"))) for scale in columns)])
    return markdown(rows)


def reached(line: Any) -> str:  # a row, which pandas does not tell from a table
    return f"{line['psnr']:.2f} ({100 * line['heavy_share']:.0f} %, {100 * line['flops_paper_share']:.0f} %)"


TABLES: dict[str, Callable[[Path], str]] = {
    "results": results,
    "refinement": refinement,
    "speed": speed("inference.csv"),
    "speed-fsrcnn": speed("inference-fsrcnn.csv"),
    "speed-srresnet": speed("inference-srresnet.csv"),
    "training": training,
    "axes": axes,
    "scales": scales,
    "routing": routing,
    "patchwise": patchwise,
}


def fill(text: str, kept: Path) -> str:
    """A text with all its tables made anew from the CSV files in `kept`. Raises KeyError for a table not known."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]](kept) + found[3], text)
