"""Enlarges images; or shrinks one, restores it and shows how well that went.

python demo.py                                     simulates x4 on a picture that ships with scikit-image
python demo.py --img_path hr.png                   the same on your HR image: it is shrunk, then restored and measured
python demo.py --img_path photo.jpg --upscale      enlarges the image itself
python demo.py --img_path photos --upscale         every image in a folder; 'photos/*.jpg' those that match
"""

import argparse
from pathlib import Path

import skimage.data

from evaluation.options import (
    add_decision_options,
    add_model_options,
    checked_scale,
    chosen_model,
    large,
    refinement,
    settings,
)
from evaluation.report import format_table, image_table, summarise, summary_json
from evaluation.simulate import simulate
from inference.batch import Outcome, Upscale, upscale_all
from inference.inputs import find_images
from inference.outputs import Naming, fingerprint, short
from inference.restore import Setting
from inference.restore_pcsr import pcsr_restorer
from inference.visual import OPACITY
from models.pcsr import PCSR
from utils.decode import read_image
from utils.device import pick_device
from utils.encode import QUALITY
from utils.errors import InputError, Parser, run

CONFIG = "configs/carn-pcsr-phase1.yaml"
ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
FORMATS = ("png", "jpg", "webp")


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--img_path",
        nargs="+",
        default=[str(ASTRONAUT)],
        metavar="PATH",
        help="the image; with --upscale also several, a folder, or a pattern in quotes (default: an astronaut)",
    )
    parser.add_argument(
        "--upscale", action="store_true", help="take the images themselves as LR and write them enlarged"
    )
    parser.add_argument("--scale", type=float, default=4.0, help="up-scaling factor of 1 or more (default: 4)")
    parser.add_argument("--out_dir", default="results/demo", help="where the pictures go (default: results/demo)")
    parser.add_argument(
        "--opacity", type=float, default=OPACITY, help=f"of the assignment's colours (default: {OPACITY})"
    )
    add_upscale_options(parser.add_argument_group("with --upscale"))
    add_decision_options(parser)
    add_model_options(parser)
    args = parser.parse_args()
    if args.config is None and args.model is None:
        args.config = CONFIG
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity {args.opacity:g}: must lie between 0 and 1")
    return args


def add_upscale_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--suffix", help="of the results' names (default: _x and the scale); --suffix=-big")
    group.add_argument("--format", choices=FORMATS, default="png", help="of the results (default: png, lossless)")
    group.add_argument("--quality", type=int, default=QUALITY, help=f"of jpg and webp, 1 .. 100 (default: {QUALITY})")
    overlay = group.add_mutually_exclusive_group()
    overlay.add_argument(
        "--assignment",
        action="store_true",
        default=None,
        help="write the assignment beside each result (default: for one image that is named)",
    )
    overlay.add_argument("--no_assignment", action="store_false", dest="assignment", help="do not")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="make what is up to date again, and replace what was not made from the picture; never an input",
    )


def upscale_naming(args: argparse.Namespace, chosen: list[Setting]) -> Naming:
    """How results are named. Raises InputError for a suffix or a quality that cannot be."""
    suffix = f"_x{args.scale:g}" if args.suffix is None else args.suffix
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix {suffix}: not part of a file name")
    if not 1 <= args.quality <= 100:
        raise InputError(f"--quality {args.quality}: must lie between 1 and 100")
    alone = len(args.img_path) == 1 and Path(args.img_path[0]).is_file()
    overlays = alone if args.assignment is None else args.assignment
    return Naming(Path(args.out_dir), suffix, f".{args.format}", [str(each) for each in chosen], overlays)


def report(args: argparse.Namespace, outcome: Outcome) -> None:
    """What became of the images, and means of those that were made. Raises InputError if any failed."""
    given = Path(args.img_path[0])
    name = "images" if len(args.img_path) > 1 else given.stem if given.is_file() else str(given)
    summary = summarise(image_table(outcome.rows, name, args.scale)) if outcome.rows else None
    if summary is not None:
        print(format_table(summary))
    if outcome.there:
        print(
            f"already there, from the same input with the same settings (--overwrite makes them again): {outcome.there}"
        )
    if outcome.made:
        many = f"{outcome.made} of {outcome.count} images written, the last: " if outcome.count > 1 else "written to "
        print(f"{many}{outcome.last}")
    if args.json:
        print("[]" if summary is None else summary_json(summary))
    if outcome.failed:
        raise InputError(f"{outcome.failed} of {outcome.count} images could not be enlarged")


def main() -> None:
    args = parse_options()
    scale, out_dir = checked_scale(args.scale), Path(args.out_dir)
    chosen = settings(args)
    if args.upscale:
        sources = find_images(args.img_path, out_dir)
        naming = upscale_naming(args, chosen)
    elif len(args.img_path) > 1 or Path(args.img_path[0]).is_dir():
        raise InputError("--img_path: several images can only be enlarged, add --upscale")
    device = pick_device(args.device)
    model, spec, name = chosen_model(args)
    if not isinstance(model, PCSR):
        raise InputError(f"{args.model or args.config}: an original model; the demo needs a PCSR model")
    made_by = short(fingerprint(model), refinement(args))
    restore = pcsr_restorer(model, chosen, refinement(args), device, large(args))
    if args.upscale:
        quality = None if args.format == "png" else args.quality
        how = Upscale(restore, scale, naming, name, made_by, quality, args.opacity, args.overwrite)
        report(args, upscale_all(sources, how))
        return
    path = Path(args.img_path[0])
    folder = out_dir / path.stem
    image = read_image(path)
    summary = simulate(image, path, restore, spec.backbone, scale, device, large(args), folder, args.opacity)
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


if __name__ == "__main__":
    run(main)
