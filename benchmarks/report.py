"""Rebuild most tables and pictures of README.md and docs/ from the weights in save/: make report DATA=DIR

DIR holds the folders Set5, Set14, BSD100 and 2K of HR images. A step is skipped if its command, its weights and its
images have not changed since the last time. Seconds are only meaningful on an idle machine. The steps print into
results/report/STEP.log; their tables and pictures go to results/readme/, and the tables from there into the texts.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
from tqdm import tqdm

from benchmarks.page import MISSING
from benchmarks.tables import ROOT, SETS, fill, texts
from evaluation.differences import NAMES
from evaluation.tables import write_csv
from inference.automatic import CLEAN, PHOTOS
from models.build import BACKBONES
from models.checkpoint import SAVE, WEIGHTS
from utils.cli import Parser, run
from utils.errors import InputError
from utils.files import list_images, write_atomic

LARGE = "2K"
WORK, KEPT = Path("results/report"), Path("results/readme")
CARN = SAVE / "carn-pcsr-phase1"
MAIN = "inference"
# runs of benchmarks/inference.py: a backbone, and the original model that its PCSR is compared with
COMPARED = {
    MAIN: ("carn", "carn-x4"),
    "inference-softgate": ("softgate", "carn-x4"),
    "inference-softgate-original": ("softgate", "softgate-x4"),
    "inference-srresnet": ("srresnet", "srresnet-x4"),
    "inference-fsrcnn": ("fsrcnn", "fsrcnn-x4"),
}
PLOTTED = (MAIN, "inference-softgate-original")
DECISIONS = ("--k", "-1", "0", "1", "2", "inf", "--budget", "1", "--adaptive")


class Step(NamedTuple):
    """One command, and the files on which its results depend."""

    name: str
    command: Sequence[str]  # the words after `python`
    makes: Sequence[Path]
    reads: Sequence[Path]

    def state(self) -> str:
        """A digest of the command and of all files that it reads."""
        digest = hashlib.sha256(repr([*self.command]).encode())
        for path in self.reads:
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def stamp(self) -> Path:
        return WORK / f"{self.name}.done"

    def done(self) -> bool:
        stamp = self.stamp()
        return stamp.exists() and stamp.read_text() == self.state() and all(path.exists() for path in self.makes)

    def run(self) -> None:
        """Run the command. Raises InputError with its last line if it fails."""
        log, state = WORK / f"{self.name}.log", self.state()  # as the command finds its files
        log.parent.mkdir(parents=True, exist_ok=True)
        # an evaluation or a demo does not replace results of another model or setting; its folder is of this step alone
        with ExitStack() as stack:
            for path in self.makes:
                if path.parent != KEPT:
                    stack.enter_context(moved_away(path.parent))
            with log.open("w") as file:
                code = subprocess.run([sys.executable, *self.command], stdout=file, stderr=file, check=False).returncode
            if code:
                last = (log.read_text().strip().splitlines() or ["nothing was printed"])[-1]
                raise InputError(f"{self.name}: python {' '.join(self.command)} failed: {last} (all of it: {log})")
        write_atomic(self.stamp(), state.encode())


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    """The folder has another name meanwhile; it returns if anything is raised, else it is deleted."""
    if not folder.exists():
        yield
        return
    aside = folder.with_name(f"{folder.name}.before")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def evaluations(data: Path) -> list[Step]:
    """Bicubic, and the original model and PCSR of every backbone, refined and not, on every set."""
    models: list[tuple[str, list[Path], list[str]]] = [("bicubic", [], ["test.py", "--bicubic"])]
    for backbone in BACKBONES:
        pcsr, *originals = shipped(backbone)
        models += [(path.name, [path], ["test.py", "--model", str(path)]) for path in originals]
        decided = ["test_pcsr.py", "--model", str(pcsr), *DECISIONS]
        models.append((pcsr.name, [pcsr], decided))
        models.append((f"{pcsr.name}-unrefined", [pcsr], [*decided, "--no_refinement"]))
    steps = []
    for images in (data / dataset for dataset in SETS):
        for name, folders, command in models:
            folder = WORK / name / images.name
            options = ["--hr_data", str(images), "--per_image", "--out_dir", str(folder)]
            reads = [*(path / WEIGHTS for path in folders), *list_images(images)]
            steps.append(Step(f"{name}-{images.name}", [*command, *options], [folder / "images.csv"], reads))
    return steps


def shipped(backbone: str) -> list[Path]:
    """The folders of a backbone's PCSR model and, if save/ has its weights, of its original model."""
    original = SAVE / f"{backbone}-x4"
    return [SAVE / f"{backbone}-pcsr-phase1", *([original] if (original / WEIGHTS).exists() else [])]


def collect(steps: Sequence[Step]) -> None:
    """Write all evaluations as a table of images and one of means, results/readme/images.csv and summary.csv."""
    for name in ("images.csv", "summary.csv"):
        tables = {}
        for step in steps:
            folder = step.makes[0].parent
            tables[folder] = pd.read_csv(folder / name, dtype=NAMES)
            tables[folder].insert(0, "model", folder.parent.name)
        write_csv(KEPT / name, pd.concat(tables.values()), "%.8g")


def measurements(data: Path) -> list[Step]:
    """The benchmarks; each makes a table, and some a picture."""
    large, folders = data / LARGE, [data / name for name in (*SETS, LARGE)]
    steps = []

    def benchmark(name: str, script: str, *options: object, reads: Sequence[Path] = (), plot: bool = False) -> None:
        makes = [KEPT / f"{name}.csv", *([KEPT / f"{name}.png"] if plot else [])]
        written = [word for pair in zip(("--csv", "--plot"), makes, strict=False) for word in pair]
        steps.append(Step(name, [f"benchmarks/{script}.py", *map(str, (*options, *written))], makes, reads))

    for name, (backbone, original) in COMPARED.items():
        images = list_images(large)[: None if name == MAIN else 1]  # for the others one image is enough
        models = [path for path in (SAVE / f"{backbone}-pcsr-phase1", SAVE / original) if (path / WEIGHTS).exists()]
        options: list[object] = [word for pair in zip(("--model", "--original"), models, strict=False) for word in pair]
        options += ["--rounds", 3]
        options += ["--img_path", large if name == MAIN else images[0]]
        reads = [*(path / WEIGHTS for path in models), *images]
        benchmark(name, "inference", *options, reads=reads, plot=name in PLOTTED)
    benchmark("training", "training", "--rounds", 15)
    for name in ("routing", "patchwise"):
        given = ["--hr_data", *folders, "--model", CARN, "--rounds", 3]
        each = ["--images_csv", WORK / f"{name}-images.csv"]
        reads = [CARN / WEIGHTS, *(path for folder in folders for path in list_images(folder))]
        benchmark(name, name, *given, *each, reads=reads, plot=name == "routing")
    return steps


def pictures() -> list[Step]:
    """The demo's comparison, a compressed image and, if a browser is installed, the web page."""
    comparison, stored, page = KEPT / "astronaut" / "comparison.png", KEPT / "compressed.png", KEPT / "app.png"
    model, original = SAVE / CLEAN, SAVE / "softgate-x4"
    both = [SAVE / name / WEIGHTS for name in (CLEAN, PHOTOS)]
    demo = ["demo.py", "--out_dir", str(KEPT)]
    shown = ["benchmarks/page.py", "--out", str(page)]
    steps = [
        Step("demo", demo, [comparison], [path / WEIGHTS for path in (model, original)]),
        Step("compressed", ["benchmarks/compressed.py", "--out", str(stored)], [stored], both),
    ]
    return steps if MISSING else [*steps, Step("page", shown, [page], both)]


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Set5, Set14, BSD100 and 2K")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="run these steps, up to date or not")
    args = parser.parse_args()
    if missing := [name for name in (*SETS, LARGE) if not (args.data / name).is_dir()]:
        raise InputError(f"{args.data}: has no folder {', '.join(missing)}")
    evaluated = evaluations(args.data)
    steps = {step.name: step for step in (*evaluated, *measurements(args.data), *pictures())}
    if unknown := [name for name in args.only if name not in steps]:
        raise InputError(f"--only {unknown[0]}: no such step, one of: {', '.join(steps)}")
    due = [steps[name] for name in args.only] or [step for step in steps.values() if not step.done()]
    for step in (bar := tqdm(due, unit="step", disable=None)):
        bar.set_description(step.name)
        step.run()
    if all(path.exists() for step in evaluated for path in step.makes):
        collect(evaluated)
    for text in (filled := texts(ROOT)):
        write_atomic(text, fill(text.read_text(encoding="utf-8"), KEPT).encode())
    if MISSING:
        print(f"the picture of the web page is left as it is, because these are not installed: {', '.join(MISSING)}")
    print(f"{len(due)} of {len(steps)} steps were due; tables in {', '.join(str(text) for text in filled)}")


if __name__ == "__main__":
    run(main)
