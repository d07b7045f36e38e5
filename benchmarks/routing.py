"""Does deciding per pixel pay? PSNR at equal FLOPs of the classifier's choice against others, on one trained model.

python benchmarks/routing.py --hr_data data/Set5 data/Set14 --plot routing.png

Every rule makes the same share of each image's pixels heavy, and the FLOPs are the whole model's, classifier included:

random                 pixels drawn at random
gradient               where the LR image changes most; needs no training
gradient alone         the same without the classifier, whose FLOPs (paper account) go into more heavy pixels
patches of 128/64/32   whole patches of so many LR pixels a side, ranked by their mean heavy probability
classifier             pixels ranked by the classifier: what --k and --budget of the other commands do
oracle                 where the heavy upsampler lowers the squared error most; knows HR: the ceiling
oracle by patches      the same by patches of 32: the ceiling of distributing patches

The share is each image's own, exact to the pixel. Of the last patch that gets in, some pixels are heavy, drawn at
random, so that in an image no larger than one patch all of them are. "Way" is the share of the PSNR between random and
oracle that a rule gets. LR is made by antialiased bicubic and rounded to 8 bits; PSNR is of 8-bit RGB, 4 border pixels
left out, mean per image. Images go through the model as a whole. Seconds are those of rating and ranking the pixels,
encoding and upsampling left out; an oracle has none.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.routing_report import add_way, format_table, plot, summarise
from benchmarks.scores import compose, gradient_score, heaviest, patch_score, random_score, squared_error
from benchmarks.ways import SCALE, load_pcsr
from datasets.folder import Pair, paired_folders
from evaluation.metrics import decibels, levels, shaved
from evaluation.report import table_json
from inference.restore import Clock
from models.decide import heaviness
from models.fast.engine import Encoded, Engine
from models.flops import PCSRFlops, pcsr_flops
from models.pcsr import PCSR, refine
from utils.device import add_device_option, pick_device
from utils.errors import InputError, Parser, run
from utils.files import write_atomic
from utils.resize import scaled_size


@dataclass(frozen=True)
class Scene:
    """One encoded image, and what rules may look at."""

    engine: Engine
    encoded: Encoded
    size: tuple[int, int]
    gain: Tensor  # (1,H,W), for oracles only
    seed: int

    def log_odds(self) -> Tensor:
        return self.engine.log_odds(self.encoded, self.size)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Rule:
    score: Callable[[Scene], Tensor]  # -> (1,H,W), see benchmarks/scores.py
    timed: bool = True  # a decision that one could take
    alone: bool = False  # does without the classifier


def by_patches(scene: Scene, patch: int) -> Tensor:
    return patch_score(heaviness(scene.log_odds()), patch * SCALE, scene.generator())


RULES = {
    "random": Rule(lambda scene: random_score(scene.gain, scene.generator())),
    "gradient": Rule(lambda scene: gradient_score(scene.encoded.lr, scene.size)),
    "gradient alone": Rule(lambda scene: gradient_score(scene.encoded.lr, scene.size), alone=True),
    **{f"patches of {patch}": Rule(partial(by_patches, patch=patch)) for patch in (128, 64, 32)},
    "classifier": Rule(lambda scene: scene.log_odds()[:, 0]),
    "oracle by patches": Rule(lambda scene: patch_score(scene.gain, 32 * SCALE, scene.generator()), timed=False),
    "oracle": Rule(lambda scene: scene.gain, timed=False),
}


class Router:
    """A model with two upsamplers at work under all rules. Raises InputError for another."""

    def __init__(self, model: PCSR, device: torch.device, rounds: int, refinement: bool, seed: int) -> None:
        if len(model.upsamplers) != 2:
            raise InputError(f"--model: has {len(model.upsamplers)} upsamplers; routing is compared between two")
        self.device, self.rounds, self.refinement, self.seed = device, rounds, refinement, seed
        self.alone = pcsr_flops(model.encoder, model.mlps()[:2], None)
        self.engine = Engine(model, device)
        self.account = self.engine.account

    @torch.inference_mode()
    def image(self, pair: Pair, shares: list[float]) -> list[dict[str, Any]]:
        """A row per rule and share of heavy pixels, and two for all light and all heavy."""
        size = scaled_size(pair.lr, SCALE)
        encoded = self.engine.encode(pair.lr.to(self.device))
        light, heavy = (self.engine.upsample_all(encoded, size, j) for j in range(2))
        errors = [self.error(sr, pair.hr) for sr in (light, heavy)]
        scene = Scene(self.engine, encoded, size, (errors[0] - errors[1]).float(), self.seed)

        def row(rule: str, share: float, assignment: Tensor, account: PCSRFlops, seconds: float) -> dict[str, Any]:
            if self.refinement:
                error = self.error(refine(compose(light, heavy, assignment), assignment), pair.hr)
            else:
                error = torch.where(assignment == 1, errors[1], errors[0])
            mse = int(error.sum(dtype=torch.int64)) / (3 * shaved(error, SCALE).numel())
            chosen = int(assignment.sum(dtype=torch.int64))
            flops = account.total(pair.lr[0, 0].numel(), [assignment.numel() - chosen, chosen])
            reached = {"heavy_share": chosen / assignment.numel(), "psnr": decibels(mse)}
            bill = {"flops_paper": flops.paper, "flops_executed": flops.executed, "decision_seconds": seconds}
            return {"image": pair.name, "rule": rule, "share": share, **reached, **bill}

        rows = []
        for name, share in (("all light", 0.0), ("all heavy", 1.0)):
            rows.append(row(name, share, heaviest(scene.gain, share), self.account, 0.0))
        for name, rule in RULES.items():
            score, rating = self.clocked(partial(rule.score, scene))
            for share in shares:
                exact = self.without_classifier(share) if rule.alone else share
                assignment, ranking = self.clocked(partial(heaviest, score, exact))
                seconds = rating + ranking if rule.timed else float("nan")
                rows.append(row(name, share, assignment, self.alone if rule.alone else self.account, seconds))
        return rows

    def error(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Squared error of 8-bit levels, (1,H,W) int32; none at the border, so that no oracle spends anything there."""
        whole = squared_error(*(levels(image, "rgb").float() for image in (sr, hr))).to(torch.int32)
        measured = torch.zeros_like(whole)
        shaved(measured, SCALE).copy_(shaved(whole, SCALE))
        return measured.to(self.device)

    def without_classifier(self, share: float) -> float:
        """The share of heavy pixels that costs as much without the classifier as `share` does with it."""
        light, heavy = self.account.upsamplers
        return min(1.0, share + self.account.classifier.paper / (heavy.paper - light.paper))

    def clocked(self, call: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """What a call gives, and its median seconds."""
        clock, seconds = Clock(self.device), []
        for _ in range(self.rounds):
            result = call()
            seconds.append(clock.lap())
        return result, median(seconds)


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr_data", type=Path, nargs="+", required=True, help="folders of HR images, a data set each")
    parser.add_argument("--model", type=Path, default=Path("save/carn-pcsr-phase1"), help="PCSR weights, M = 2")
    parser.add_argument("--shares", type=float, nargs="+", default=[5, 10, 20, 30, 50], help="percent of heavy pixels")
    parser.add_argument("--refinement", action="store_true", help="refine the borders between light and heavy")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each decision (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default: 0)")
    parser.add_argument("--csv", type=Path, default=Path("results/benchmarks/routing.csv"), help="means per data set")
    parser.add_argument("--images_csv", type=Path, default=Path("results/benchmarks/routing-images.csv"))
    parser.add_argument("--plot", type=Path, help="PNG to write: PSNR over the share of heavy pixels")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, the means")
    add_device_option(parser)
    args = parser.parse_args()
    if args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: must be 1 or more")
    if wrong := [share for share in args.shares if not 0 < share < 100]:
        raise InputError(f"--shares {wrong[0]:g}: must lie between 0 and 100 percent")
    args.shares = sorted({share / 100 for share in args.shares})
    return args


def main() -> None:
    args = parse_options()
    device = pick_device(args.device)
    folders = paired_folders(args.hr_data, SCALE)
    router = Router(load_pcsr(args.model), device, args.rounds, args.refinement, args.seed)
    tables, summaries = [], []
    for dataset, pairs in folders.items():
        bar = tqdm(pairs, desc=dataset, unit="image", disable=None)
        table = pd.DataFrame([row for pair in bar for row in router.image(pair, args.shares)])
        table.insert(0, "dataset", dataset)
        tables.append(table)
        summaries.append(add_way(summarise(table, args.model.resolve().name, args.refinement)))
        print(f"{format_table(summaries[-1])}\n")
    summary = pd.concat(summaries)
    write_atomic(args.images_csv, pd.concat(tables).to_csv(index=False, float_format="%.7g").encode())
    write_atomic(args.csv, summary.to_csv(index=False, float_format="%.7g").encode())
    if args.plot:
        write_atomic(args.plot, plot(summary))
    if args.json:
        print(table_json(summary))


if __name__ == "__main__":
    run(main)
