"""Rebuild every number and picture of README.md and docs/ from the weights in save/: make report DATA=DIR

DIR holds the folders Set5, Set14, BSD100 and 2K of HR images. What is up to date is not done again: a step is, when its
command, its weights and its images are those of the last time. Seconds are worth something on an idle machine only.
What the steps print goes to results/report/STEP.log, their tables and pictures to results/readme/, and the tables from
there into the texts.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
from tqdm import tqdm

from benchmarks.page import MISSING
from benchmarks.tables import ROOT, fill, texts
from models.checkpoint import WEIGHTS
from utils.errors import InputError, Parser, run
from utils.files import list_images, write_atomic

SETS = ("Set5", "Set14", "BSD100")
LARGE = "2K"
BACKBONES = ("carn", "srresnet", "fsrcnn")
WORK, KEPT, SAVE = Path("results/report"), Path("results/readme"), Path("save")
DECISIONS = ("--k", "-1", "0", "1", "2", "inf", "--budget", "1", "--adaptive")


@dataclass(frozen=True)
class Step:
    """One command, and what has to be the same for its results still to hold."""

    name: str
    command: Sequence[str]  # what follows `python`
    makes: Sequence[Path]
    weights: Sequence[Path] = ()
    images: Sequence[Path] = field(default=())  # folders

    def state(self) -> str:
        """A digest of the command and of all it reads."""
        digest = hashlib.sha256(json.dumps([*self.command]).encode())
        for folder in self.weights:
            digest.update((folder / WEIGHTS).read_bytes())
        for folder in self.images:
            for path in list_images(folder):
                digest.update(f"{path.name} {path.stat().st_size} ".encode())
        return digest.hexdigest()

    def stamp(self) -> Path:
        return WORK / f"{self.name}.done"

    def done(self) -> bool:
        stamp = self.stamp()
        return stamp.exists() and stamp.read_text() == self.state() and all(path.exists() for path in self.makes)

    def run(self) -> None:
        """Raises InputError, with the command's last words, if it fails."""
        log = WORK / f"{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            code = subprocess.run([sys.executable, *self.command], stdout=file, stderr=file, check=False).returncode
        if code:
            last = (log.read_text().strip().splitlines() or ["nothing was printed"])[-1]
            raise InputError(f"{self.name}: python {' '.join(self.command)} failed: {last} (all of it: {log})")
        write_atomic(self.stamp(), self.state().encode())


def evaluations(data: Path) -> list[Step]:
    """Bicubic, the original model and PCSR, refined and not, on every set."""
    steps = []
    for dataset in SETS:
        images = data / dataset

        def evaluated(
            name: str, script: str, *options: str, weights: Sequence[Path] = (), images: Path = images
        ) -> Step:
            folder = WORK / name / images.name
            command = [script, *options, "--hr_data", str(images), "--per_image", "--out_dir", str(folder)]
            return Step(f"{name}-{images.name}", command, [folder / "images.csv"], weights, [images])

        steps.append(evaluated("bicubic", "test.py", "--bicubic"))
        for original, pcsr in ((SAVE / f"{backbone}-x4", SAVE / f"{backbone}-pcsr-phase1") for backbone in BACKBONES):
            if not (pcsr / WEIGHTS).exists():  # none ship
                continue
            steps.append(evaluated(original.name, "test.py", "--model", str(original), weights=[original]))
            for name, more in ((pcsr.name, []), (f"{pcsr.name}-unrefined", ["--no_refinement"])):
                options = ["--model", str(pcsr), *DECISIONS, *more]
                steps.append(evaluated(name, "test_pcsr.py", *options, weights=[pcsr]))
    return steps


def collect(steps: Sequence[Step]) -> None:
    """All evaluations as one table of images and one of means, results/readme/images.csv and summary.csv."""
    for name in ("images", "summary"):
        tables = []
        for step in steps:
            folder = step.makes[0].parent
            table = pd.read_csv(folder / f"{name}.csv")
            table.insert(0, "model", folder.parent.name)
            tables.append(table)
        content = pd.concat(tables).to_csv(index=False, float_format="%.6g")
        write_atomic(KEPT / f"{name}.csv", content.encode())


def measurements(data: Path) -> list[Step]:
    """The benchmarks, each a table of its own and some a picture."""
    carn, original = SAVE / "carn-pcsr-phase1", SAVE / "carn-x4"
    large, rounds = data / LARGE, "3"
    one = str(list_images(large)[0])
    steps = []

    def benchmark(name: str, script: str, *options: str, plot: bool = False, images: Sequence[Path] = ()) -> None:
        makes = [KEPT / f"{name}.csv", *([KEPT / f"{name}.png"] if plot else [])]
        shown = ["--csv", str(makes[0]), *(["--plot", str(makes[1])] if plot else [])]
        steps.append(Step(name, [f"benchmarks/{script}.py", *options, *shown], makes, [carn, original], images))

    benchmark("inference", "inference", "--img_path", str(large), "--rounds", rounds, plot=True, images=[large])
    for backbone in ("fsrcnn", "srresnet"):
        options = ["--img_path", one, "--backbone", backbone, "--rounds", rounds]
        benchmark(f"inference-{backbone}", "inference", *options, images=[large])
    benchmark("training", "training", "--rounds", "15")
    folders = [data / name for name in (*SETS, LARGE)]
    given = ["--hr_data", *map(str, folders), "--model", str(carn), "--rounds", "1"]
    each = ["--images_csv", str(WORK / "routing-images.csv")]
    benchmark("routing", "routing", *given, *each, plot=True, images=folders)
    benchmark("patchwise", "patchwise", *given, "--images_csv", str(WORK / "patchwise-images.csv"), images=folders)
    return steps


def pictures() -> list[Step]:
    """The demo's comparison and the web page, the latter where a browser is installed."""
    comparison, page = KEPT / "astronaut" / "comparison.png", KEPT / "app.png"
    carn, original = SAVE / "carn-pcsr-phase1", SAVE / "carn-x4"
    steps = [Step("demo", ["demo.py", "--out_dir", str(KEPT)], [comparison], [carn, original])]
    if not MISSING:
        command = ["benchmarks/page.py", "--model", str(carn), "--out", str(page)]
        steps.append(Step("page", command, [page], [carn]))
    return steps


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Set5, Set14, BSD100 and 2K")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps, up to date or not")
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
    collect(evaluated)
    for text in (filled := texts(ROOT)):
        write_atomic(text, fill(text.read_text(encoding="utf-8"), KEPT).encode())
    if MISSING:
        print(f"the picture of the web page is left as it is: not installed: {', '.join(MISSING)}")
    print(f"{len(due)} of {len(steps)} steps were due; tables in {', '.join(str(text) for text in filled)}")


if __name__ == "__main__":
    run(main)
