"""Evaluate an original model: python test.py --config configs/carn-x4.yaml --hr_data DIR --per_image"""

from evaluation.run import eval_parser, run_evaluation
from inference.options import chosen_model, tile_plan
from inference.restore import bicubic_restorer, original_restorer
from models.blocks import Backbone
from utils.dist import run_rank, start_ranks, stop_ranks
from utils.errors import InputError


def main() -> None:
    parser = eval_parser("Evaluate an original model, or bicubic interpolation.")
    parser.add_argument("--bicubic", action="store_true", help="MATLAB's bicubic instead of a model, at any scale")
    args = parser.parse_args()
    if args.bicubic:
        ranks = start_ranks(args.device)
        run_evaluation(args, bicubic_restorer(args.scale), "bicubic", ranks)
    else:
        chosen = chosen_model(args)
        model = chosen.model
        if not isinstance(model, Backbone):
            raise InputError(f"{args.model or args.config}: a PCSR model; use test_pcsr.py")
        if args.scale != model.scale:
            raise InputError(f"--scale {args.scale:g}: this original model does x{model.scale} only; use test_pcsr.py")
        ranks = start_ranks(args.device)
        restore = original_restorer(model, ranks.device, tile_plan(args))
        if ranks.main:
            chosen.introduce(args.scale)
        run_evaluation(args, restore, chosen.name, ranks)
    stop_ranks(ranks)


if __name__ == "__main__":
    run_rank(main)
