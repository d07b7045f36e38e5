"""Is it worth deciding per pixel? PSNR of the classifier's choice and of others, at equal FLOPs, on one trained model.

python benchmarks/routing.py --hr_data data/Set5 data/Set14 --plot routing.png

Every rule makes the same share of each image's pixels heavy. The FLOPs are those of the whole model with classifier.

random                 pixels drawn at random
gradient               where the LR image changes most; needs no training
gradient alone         the same without the classifier, whose FLOPs (paper account) go into more heavy pixels
patches of 128/64/32   whole patches of this many LR pixels a side, ranked by their mean heavy probability
classifier             pixels ranked by the classifier, as --k and --budget of the other commands do
oracle                 where the heavy upsampler lowers the squared error most; it knows HR and is the upper limit
oracle by patches      the same by patches of 32: the upper limit for methods that distribute patches
oracle 3x3, 9x9        the same by means over this many HR pixels, among which luck at single pixels counts less

The share holds in each image, exactly to the pixel. In the last patch that is chosen only some pixels are heavy, which
are drawn at random; in an image no larger than one patch this means all heavy pixels. "Way" is the share of the PSNR
gap between random and oracle that a rule closes, and that all pixels heavy would close, at more FLOPs. LR is made by
antialiased bicubic and rounded to 8 bits. PSNR is measured on 8-bit RGB without 4 border pixels, and averaged over the
images. Images are restored as a whole. Seconds are those of rating and ranking the pixels, without encoding and
upsampling; an oracle has none.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import SCALE, folders_parser, load_pcsr, means, run_folders
from benchmarks.routing_report import add_way, describe, plot
from benchmarks.scores import compose, gradient_score, heaviest, patch_score, random_score, squared_error
from datasets.folder import Pair
from evaluation.metrics import levels, psnr, shaved
from inference.restore import Clock
from models.decide import heaviness
from models.fast.engine import Encoded, Engine
from models.flops import pcsr_flops
from models.pcsr import PCSR, refine
from utils.cli import run
from utils.device import pick_device
from utils.errors import InputError
from utils.files import output_file, write_atomic
from utils.resize import scaled_size


class Scene(NamedTuple):
    """One encoded image, and all that rules may use."""

    engine: Engine
    encoded: Encoded
    size: tuple[int, int]
    gain: Tensor  # (1,H,W), only for oracles
    seed: int

    def log_odds(self) -> Tensor:
        return self.engine.classify(self.encoded, self.size)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def by_patches(scene: Scene, patch: int) -> Tensor:
    return patch_score(heaviness(scene.log_odds()), patch * SCALE, scene.generator())


def by_gradient(scene: Scene) -> Tensor:
    return gradient_score(scene.encoded.lr, scene.size)


def by_neighbourhood(scene: Scene, side: int) -> Tensor:
    return F.avg_pool2d(scene.gain, side, 1, side // 2)


ALONE = "gradient alone"  # does without the classifier
RULES: dict[str, Callable[[Scene], Tensor]] = {  # -> a score (1,H,W), see benchmarks/scores.py
    "random": lambda scene: random_score(scene.gain, scene.generator()),
    "gradient": by_gradient,
    ALONE: by_gradient,
    **{f"patches of {patch}": partial(by_patches, patch=patch) for patch in (128, 64, 32)},
    "classifier": lambda scene: scene.log_odds()[:, 0],
    "oracle by patches": lambda scene: patch_score(scene.gain, 32 * SCALE, scene.generator()),
    **{f"oracle {side}x{side}": partial(by_neighbourhood, side=side) for side in (9, 3)},
    "oracle": lambda scene: scene.gain,
}


def gain_of(light: Tensor, heavy: Tensor, hr: Tensor) -> Tensor:
    """How much lower the squared error of heavy is, in 8-bit levels: three (1,3,H,W) -> (1,H,W), 0 at the border.

    The border does not count in PSNR, so that an oracle must not choose pixels there.
    """
    light, heavy, hr = (levels(image, "rgb") for image in (light, heavy, hr))
    gain = (squared_error(light, hr) - squared_error(heavy, hr)).float()
    inside = torch.zeros_like(gain)
    shaved(inside, SCALE).copy_(shaved(gain, SCALE))
    return inside


class Router:
    """Restores with all rules. Raises InputError for a model that does not have two upsamplers."""

    def __init__(
        self, model: PCSR, device: torch.device, shares: list[float], rounds: int, refinement: bool, seed: int
    ) -> None:
        if len(model.upsamplers) != 2:
            raise InputError(f"the model has {len(model.upsamplers)} upsamplers; routing is compared between two")
        self.shares, self.rounds, self.refinement, self.seed = shares, rounds, refinement, seed
        self.engine = Engine(model, device)
        self.alone = pcsr_flops(model.encoder, model.mlps()[:2], None)

    @torch.inference_mode()
    def measure(self, pair: Pair) -> list[dict[str, Any]]:
        """A row per rule and share of heavy pixels, and two for all light and all heavy."""
        device = self.engine.device
        size, encoded = scaled_size(pair.lr, SCALE), self.engine.encode(pair.lr.to(device))
        light, heavy = (self.engine.upsample(encoded, size, torch.full((1, *size), j, device=device)) for j in range(2))
        gain = gain_of(light, heavy, pair.hr).to(device)
        rows = []
        for rule, share, assignment, seconds in self.decisions(Scene(self.engine, encoded, size, gain, self.seed)):
            sr, pixels = compose(light, heavy, assignment), assignment.numel()
            chosen = int(assignment.sum(dtype=torch.int64))
            parts = self.alone if rule == ALONE else self.engine.flops
            flops = parts.total(pair.lr[0, 0].numel(), [pixels - chosen, chosen])
            rows.append(
                {
                    "image": pair.name,
                    "rule": rule,
                    "share": share,
                    "heavy_share": chosen / pixels,
                    "psnr": psnr(refine(sr, assignment) if self.refinement else sr, pair.hr, SCALE),
                    "flops_paper": flops.paper,
                    "flops_executed": flops.executed,
                    "decision_seconds": seconds,
                }
            )
        return rows

    def decisions(self, scene: Scene) -> Iterator[tuple[str, float, Tensor, float]]:
        """Rule, share, assignment (1,H,W) and median seconds, which are nan for oracles, as nobody can use one."""
        yield "all light", 0.0, heaviest(scene.gain, 0.0), 0.0
        yield "all heavy", 1.0, heaviest(scene.gain, 1.0), 0.0
        for rule, rate in RULES.items():
            score, rating = self.clocked(partial(rate, scene))
            for share in self.shares:
                exact = self.without_classifier(share) if rule == ALONE else share
                assignment, ranking = self.clocked(partial(heaviest, score, exact))
                yield rule, share, assignment, float("nan") if rule.startswith("oracle") else rating + ranking

    def without_classifier(self, share: float) -> float:
        """The share of heavy pixels with as many FLOPs without the classifier as `share` has with it."""
        light, heavy = self.engine.flops.upsamplers
        return min(1.0, share + self.engine.flops.classifier.paper / (heavy.paper - light.paper))

    def clocked(self, call: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """The result of a call, and its median seconds after a first one, which is slower."""
        call()
        clock, seconds = Clock(self.engine.device), []
        for _ in range(self.rounds):
            result = call()
            seconds.append(clock.lap())
        return result, median(seconds)


def main() -> None:
    parser = folders_parser(__doc__, "routing")
    parser.add_argument("--shares", type=float, nargs="+", default=[5, 10, 20, 30, 50], help="percent of heavy pixels")
    parser.add_argument("--refinement", action="store_true", help="refine the borders between light and heavy")
    parser.add_argument("--seed", type=int, default=0, help="seed of random numbers (default: 0)")
    parser.add_argument("--plot", type=output_file(".png"), help="PNG to write: PSNR over the share of heavy pixels")
    args = parser.parse_args()
    if wrong := [share for share in args.shares if not 0 < share < 100]:
        raise InputError(f"--shares {wrong[0]:g}: must lie between 0 and 100 percent")
    shares = sorted({share / 100 for share in args.shares})
    model, device = load_pcsr(args.model), pick_device(args.device)
    router = Router(model, device, shares, args.rounds, args.refinement, args.seed)
    summary = run_folders(
        args, router.measure, lambda images: add_way(means(images, ["rule", "share"], args)), describe
    )
    if args.plot:
        write_atomic(args.plot, plot(summary))


if __name__ == "__main__":
    run(main)
