"""Evaluate an original model: python test.py --config configs/carn-x4.yaml --hr_data DIR --per_image"""

from evaluation.command import eval_parser, run_evaluation
from inference.options import chosen_model, tile_plan
from inference.restore import possible_scale
from inference.restorers import bicubic_restorer, original_restorer
from models.original import OriginalModel
from models.setting import check_scale
from utils.dist import run_rank
from utils.errors import InputError


def main() -> None:
    parser = eval_parser("Evaluate an original model, or bicubic interpolation.")
    parser.add_argument("--bicubic", action="store_true", help="MATLAB's bicubic instead of a model, at any scale")
    args = parser.parse_args()
    if args.bicubic:
        idle = [name for name in ("model", "config", "tile_size") if getattr(args, name)]
        idle += ["precision"] if args.precision != parser.get_default("precision") else []
        if given := " and ".join(f"--{name}" for name in idle):
            raise InputError(f"--bicubic: takes no model; leave out {given}, or --bicubic")
        if not args.per_image:
            raise InputError("--bicubic works on whole images: add --per_image")
        run_evaluation(args, lambda _, scale: bicubic_restorer(check_scale(scale)), ["bicubic"])
        return
    chosen = chosen_model(args.config, args.model)
    model = chosen.model
    if not isinstance(model, OriginalModel):
        raise InputError(f"{args.model or args.config}: a PCSR model; use test_pcsr.py")
    for scale in args.scale:
        possible_scale(model, scale)
    run_evaluation(
        args, lambda device, _: original_restorer(model, device, tile_plan(args), args.precision), ["original"], chosen
    )


if __name__ == "__main__":
    run_rank(main)
