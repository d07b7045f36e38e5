"""Upscales images; or simulates on one: shrinks it, restores it and shows how well that went.

python demo.py photo.jpg --upscale       writes results/demo/photo_x4.png, four times as wide and high
python demo.py photos --upscale          every image in a folder; 'photos/*.jpg' those that match
python demo.py                           simulates x4 on a picture that ships with scikit-image
python demo.py hr.png                    the same on your HR image: it is shrunk, then restored and measured
./dist.sh demo.py photos --upscale --gpu 0,1    shares a folder out to two GPUs; --cpu N to N processes

The models are trained on clean pictures: noise and the traces of strong compression are upscaled like details.
"""

import argparse
from functools import partial
from hashlib import sha256
from pathlib import Path

import skimage.data
import torch

from evaluation.evaluate import Protocol, Row, measure
from inference.batch import Upscale, add_upscale_options, chosen_output, upscale_all
from inference.inputs import find_images, passed_over
from inference.options import (
    Chosen,
    add_decision_options,
    add_model_options,
    chosen_model,
    half_precision,
    refuse_decisions,
    settings,
    settle_precision,
    tile_plan,
)
from inference.outputs import fingerprint, short
from inference.restore import Restore, possible_scale
from inference.restorers import original_restorer, pcsr_restorer
from inference.visual import OPACITY
from models.blocks import OriginalModel
from models.pcsr import PCSR
from utils.dist import Ranks, from_main, gather, run_rank, start_ranks, stop_ranks
from utils.errors import InputError, Parser
from utils.files import read_bytes
from utils.jobs import Outcome, tell

CONFIG = "configs/carn-pcsr-phase1.yaml"
ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "the image; with --upscale also several, a folder, or a pattern in quotes (default: an astronaut)"
    parser.add_argument("images", nargs="*", default=[], metavar="PATH", help=about)
    parser.add_argument("--img_path", nargs="+", default=[], metavar="PATH", help="the same, as an option")
    parser.add_argument("--upscale", action="store_true", help="take the images themselves as LR and write their SR")
    parser.add_argument("--scale", type=float, help="up-scaling factor of 1 or more (default: 4; an original's own)")
    parser.add_argument("--out_dir", default="results/demo", help="where the pictures go (default: results/demo)")
    about = f"of the assignment's colours, 0 .. 1 (default: {OPACITY})"
    parser.add_argument("--opacity", type=float, default=OPACITY, help=about)
    about = "without --upscale: the original model to compare with (default: save/BACKBONE-x4)"
    parser.add_argument("--original", metavar="PATH", help=about)
    add_upscale_options(parser.add_argument_group("with --upscale"))
    add_decision_options(parser)
    add_model_options(parser)
    args = parser.parse_args()
    args.images = [*args.images, *args.img_path] or [str(ASTRONAUT)]
    if args.config is None and args.model is None:
        args.config = CONFIG
    if args.upscale and args.original:
        raise InputError("--original: is for a comparison; leave it or --upscale out")
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity {args.opacity:g}: must lie between 0 and 1")
    return args


def upscale(args: argparse.Namespace, ranks: Ranks, chosen: Chosen) -> None:
    """Upscale all, each rank its share, and say what became of them. Raises InputError if any failed."""
    sources, output = from_main(ranks, partial(find_images, args.images, Path(args.out_dir))), chosen_output(args)
    restore, names = restorer(args, chosen.model, ranks.device)
    if ranks.main:
        chosen.introduce(args, args.scale)
    made_by = short(fingerprint(chosen.model), not args.no_refinement, *half_precision(args).values())
    how = Upscale(restore, names, args.scale, output, chosen.name, made_by, args.accept_damaged)
    rows: list[Row] = []
    protocol = Protocol(args.scale)
    outcome = upscale_all(
        sources, how, lambda name, restored: rows.append(measure(name, restored, None, protocol)), ranks
    )
    everything = gather(ranks, (rows, (len(outcome.made), outcome.kept, outcome.failed)))
    stop_ranks(ranks)
    if not ranks.main:
        return
    made, kept, failed = (sum(each) for each in zip(*(counts for _, counts in everything), strict=True))
    if len(sources) > 1:
        print(
            f"{made} of {len(sources)} images written to {how.output.folder}" + f", {kept} already there" * (kept > 0)
        )
    if left := passed_over(args.images):
        tell(f"note: not upscaled: {left}")
    if args.json:
        from evaluation.report import image_table, summarise, summary_json  # noqa: PLC0415 - see simulate_one

        table = image_table([row for some, _ in everything for row in some], "images", args.scale) if made else None
        print("[]" if table is None else summary_json(summarise(table)))
    Outcome(len(sources), failed=failed).check()


def simulate_one(args: argparse.Namespace, device: torch.device, chosen: Chosen) -> None:
    """Shrink an image, restore it, and show how well that went, beside the original model's result if there is one."""
    # here, because pandas, which these import, takes 0.2 s that whoever upscales need not wait
    from evaluation.record import model_record, results_folder, write_record  # noqa: PLC0415
    from evaluation.report import format_table, summary_json  # noqa: PLC0415
    from evaluation.simulate import COMPARISON, original_beside, simulate  # noqa: PLC0415

    restore, names = restorer(args, chosen.model, device)
    chosen.introduce(args, args.scale)
    path, restores = Path(args.images[0]), [restore]
    record = {"image": str(path.resolve()), "content": sha256(read_bytes(path)).hexdigest(), **model_record(chosen)}
    record |= {
        "scale": args.scale,
        "settings": names,
        "refinement": not args.no_refinement,
        "opacity": args.opacity,
        "device": device.type,
        **half_precision(args),
    }
    if isinstance(chosen.model, PCSR):
        original = original_beside(chosen.spec.backbone, args.scale, args.original)
        if original is not None:
            restores.insert(0, original_restorer(original, device, tile_plan(args)))
            record["original"] = fingerprint(original)
    elif args.original:
        raise InputError("--original: goes with a PCSR model; leave it out, or name a PCSR model with --model")
    folder = results_folder(Path(args.out_dir) / path.stem, COMPARISON, record)
    summary = simulate(path, args.scale, restores, folder, args.opacity)
    write_record(folder, record)
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


def restorer(args: argparse.Namespace, model: OriginalModel | PCSR, device: torch.device) -> tuple[Restore, list[str]]:
    """What restores with a model, and the names of its results. Raises InputError for options it cannot follow."""
    if isinstance(model, OriginalModel):
        return original_restorer(model, device, tile_plan(args), args.precision), ["original"]
    decisions = settings(args, args.scale)
    return pcsr_restorer(model, decisions, device, tile_plan(args)), [str(each) for each in decisions]


def main() -> None:
    args = parse_options()
    ranks = start_ranks(args.device)
    if not args.upscale and (ranks.world > 1 or len(args.images) > 1 or Path(args.images[0]).is_dir()):
        raise InputError("to simulate takes one image and one process; for several, add --upscale")
    chosen = chosen_model(args)
    args.scale = possible_scale(chosen.model, args.scale)
    settle_precision(args, chosen.model, ranks.device)
    if isinstance(chosen.model, OriginalModel):
        refuse_decisions(args)
    if args.upscale:
        upscale(args, ranks, chosen)
    else:
        simulate_one(args, ranks.device, chosen)


if __name__ == "__main__":
    run_rank(main)
