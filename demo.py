"""Upscales images; or simulates on one: shrinks it, restores it and shows how well that went.

python demo.py photo.jpg --upscale       writes results/demo/photo_x4.png, four times as wide and high
python demo.py photos --upscale          every image in a folder; 'photos/*.jpg' those that match
python demo.py                           simulates x4 on an image that ships with scikit-image
python demo.py hr.png                    the same on your HR image: it is shrunk, then restored and measured
./dist.sh demo.py photos --upscale --gpu 0,1    divides a folder between two GPUs; --cpu N between N processes

A simulation writes comparison.png, which shows every setting that is given. Its lower row magnifies one place of all
images, the one with the most heavy pixels, all settings together.

With --upscale, JPEG files of quality 97 or lower and lossy WebP files take weights that were trained on such images.
All others take weights that were trained on clean images; these cannot tell noise and compression artefacts from
details, and sharpen both. --model or --config chooses the weights for all images.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import skimage.data
import torch

from evaluation.evaluate import MeasuringProtocol, Row, measure
from inference.automatic import CLEAN, weights_for
from inference.batch import Ready, Upscale, upscale_all
from inference.inputs import find_images, passed_over
from inference.options import (
    Chosen,
    add_decision_options,
    add_model_options,
    add_upscale_options,
    asked_settings,
    chosen_model,
    chosen_output,
    refuse_decisions,
    speed_record,
    tile_plan,
)
from inference.outputs import digest_of, fingerprint
from inference.precision import dtype_of, name_of
from inference.restore import Restore, possible_scale
from inference.restorers import original_restorer, pcsr_restorer
from inference.visual import OPACITY
from models.original import OriginalModel
from models.pcsr import PCSR
from utils.cli import Parser, tell
from utils.decode import stored_lossy
from utils.dist import Ranks, from_main, gather, run_rank, start_ranks, stop_ranks
from utils.errors import InputError
from utils.files import read_bytes
from utils.jobs import Outcome

CONFIG = "configs/{}.yaml"
UPSCALING = "suffix", "format", "quality", "overwrite", "assignment"  # options that mean nothing to a simulation
ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "the image; with --upscale also several, a folder, or a pattern in quotes; to be named before the options "
    about += "(default: an astronaut)"
    parser.add_argument("images", nargs="*", default=[], metavar="PATH", help=about)
    parser.add_argument("--img_path", nargs="+", default=[], metavar="PATH", help="the same, given as an option")
    parser.add_argument("--upscale", action="store_true", help="make the images larger, instead of the simulation")
    about = "up-scaling factor of 1 or more (default: 4, or the only one that an original model has)"
    parser.add_argument("--scale", type=float, help=about)
    parser.add_argument("--out_dir", default="results/demo", help="where the images go (default: results/demo)")
    about = "take what can be decoded of a damaged file, and say so"
    parser.add_argument("--accept_damaged", action="store_true", help=about)
    about = f"strength of the colours in the image of the assignment, 0 .. 1 (default: {OPACITY})"
    parser.add_argument("--opacity", type=float, default=OPACITY, help=about)
    about = "without --upscale: the original model to compare with (default: save/BACKBONE-x4)"
    parser.add_argument("--original", metavar="PATH", help=about)
    add_upscale_options(parser.add_argument_group("with --upscale"))
    add_decision_options(parser)
    add_model_options(parser)
    args = parser.parse_args()
    args.images = [*args.images, *args.img_path] or [str(ASTRONAUT)]
    if args.config is None and args.model is None and not args.upscale:
        args.config = CONFIG.format(CLEAN)
    given = [f"--{name}" for name in UPSCALING if getattr(args, name) != parser.get_default(name)]
    if given and not args.upscale:
        raise InputError(f"{' '.join(given)}: goes with --upscale; add that, or leave it out")
    if args.upscale and args.original:
        raise InputError("--original: is for a comparison; leave it or --upscale out")
    if args.upscale and not args.assignment and args.opacity != OPACITY:
        raise InputError("--opacity: is for the image of --assignment; add that, or leave it out")
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity {args.opacity:g}: must lie between 0 and 1")
    return args


def model_chooser(args: argparse.Namespace, ranks: Ranks) -> Callable[[Path], tuple[Ready, str]]:
    """What chooses the model of a file: that of the options, or by the file. Each is loaded when it is first needed."""

    @cache
    def ready(config: str | None) -> Ready:
        chosen, scale = load(args, config)
        precision = chosen.precision_on(ranks.device, args.precision)
        restore, names = restorer(args, chosen.model, ranks.device, scale)
        if ranks.main:
            chosen.introduce(precision, scale)
        faster = speed_record(precision, args.skip_flat).values()
        made_by = digest_of(chosen.fingerprint(), not args.no_refinement, *faster)
        return Ready(restore, names, scale, chosen.name, made_by)

    def choose(source: Path) -> tuple[Ready, str]:
        if args.config is not None or args.model is not None:
            return ready(args.config), ""
        name, why = weights_for(stored_lossy(source))
        return ready(CONFIG.format(name)), f"{why}, save/{name}; --model chooses others"

    return choose


def upscale(args: argparse.Namespace, ranks: Ranks) -> None:
    """Upscale all, each rank its share, and say what became of them. Raises InputError if any failed."""
    sources = from_main(ranks, partial(find_images, args.images, Path(args.out_dir)))
    choose = model_chooser(args, ranks)
    ready, _ = choose(sources[0])  # at once, because a wrong option is an error of the command, not of an image
    output, scale = chosen_output(args, ready.scale), ready.scale
    how = Upscale(choose, ready.settings, scale, output, args.accept_damaged)
    rows: list[Row] = []
    protocol = MeasuringProtocol(scale)
    outcome = upscale_all(
        sources, how, lambda name, restored: rows.append(measure(name, restored, None, protocol)), ranks
    )
    everything = gather(ranks, (rows, (len(outcome.made), outcome.kept, outcome.failed)))
    stop_ranks(ranks)
    if not ranks.main:
        return
    made, kept, failed = (sum(each) for each in zip(*(counts for _, counts in everything), strict=True))
    if len(sources) > 1:
        already = f", {kept} already there" if kept else ""
        files = made * len(ready.settings) * (2 if output.overlays else 1)
        several = f" ({files} files)" if files > made else ""
        print(f"{made} of {len(sources)} images written to {output.folder}{several}{already}")
    if left := passed_over(args.images, Path(args.out_dir)):
        tell(f"note: not upscaled: {left}")
    if args.json:
        from evaluation.report import image_table, summarise, summary_json  # noqa: PLC0415 - see simulate_one

        table = image_table([row for some, _ in everything for row in some], "images", scale) if made else None
        print("[]" if table is None else summary_json(summarise(table)))
    Outcome(len(sources), failed=failed).check()


def simulate_one(args: argparse.Namespace, device: torch.device) -> None:
    """Shrink an image, restore it, and show how well that went, beside the original model's result if there is one."""
    # here, because pandas, which these import, takes 0.2 s that an upscaling need not wait for
    from evaluation.record import RECORD, model_record, reserving, results_folder  # noqa: PLC0415
    from evaluation.report import format_table, summary_json  # noqa: PLC0415
    from evaluation.simulate import original_beside, simulate, simulated_files  # noqa: PLC0415

    chosen, scale = load(args, args.config)
    restore, names = restorer(args, chosen.model, device, scale)
    precision = chosen.precision_on(device, args.precision)
    chosen.introduce(precision, scale)
    path, restores = Path(args.images[0]), [restore]
    record = {"image": str(path.resolve()), "content": sha256(read_bytes(path)).hexdigest(), **model_record(chosen)}
    record |= {"scale": scale, "settings": names, "refinement": not args.no_refinement, "opacity": args.opacity}
    record |= {"device": device.type, **speed_record(precision, args.skip_flat)}
    if isinstance(chosen.model, PCSR):
        original = original_beside(chosen.spec.backbone, scale, args.original)
        if original is not None:
            restores.insert(0, original_restorer(original, device, tile_plan(args), args.precision))
            record["original"] = fingerprint(original)
            if (other := name_of(dtype_of(original, device, args.precision))) != "float32":
                record["original_precision"] = other
    elif args.original:
        raise InputError("--original: goes with a PCSR model; leave it out, or name a PCSR model with --model")
    elif args.opacity != OPACITY:
        raise InputError("--opacity: is for the assignment of a PCSR model; leave it out, or name one with --model")
    files = simulated_files(names)
    folder = results_folder(Path(args.out_dir) / path.stem, files, record)
    with reserving([name for name in files if name != RECORD]) as reserve:
        reserve(folder, record)
        summary = simulate(path, scale, restores, folder, args.opacity, args.accept_damaged)
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


def load(args: argparse.Namespace, config: str | None) -> tuple[Chosen, float]:
    """The model of --model, else of a config, and the scale. Raises InputError for options it cannot follow."""
    chosen = chosen_model(config, args.model)
    scale = possible_scale(chosen.model, args.scale)
    if isinstance(chosen.model, OriginalModel):
        refuse_decisions(args)
    return chosen, scale


def restorer(
    args: argparse.Namespace, model: OriginalModel | PCSR, device: torch.device, scale: float
) -> tuple[Restore, list[str]]:
    """What restores with a model, and the names of its results. Raises InputError for options it cannot follow."""
    if isinstance(model, OriginalModel):
        return original_restorer(model, device, tile_plan(args), args.precision), ["original"]
    settings = asked_settings(args, scale)
    return pcsr_restorer(model, settings, device, tile_plan(args)), [str(each) for each in settings]


def main() -> None:
    args = parse_options()
    ranks = start_ranks(args.device)
    if not args.upscale and (ranks.world > 1 or len(args.images) > 1 or Path(args.images[0]).is_dir()):
        raise InputError("a simulation takes one image and one process; add --upscale to restore several images")
    if args.upscale:
        upscale(args, ranks)
    else:
        simulate_one(args, ranks.device)


if __name__ == "__main__":
    run_rank(main)
