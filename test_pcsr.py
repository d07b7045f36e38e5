"""Evaluate a PCSR model: python test_pcsr.py --config configs/carn-pcsr-phase1.yaml --hr_data DIR --per_image --k 0"""

from evaluation.command import eval_parser, run_evaluation
from inference.options import add_decision_options, asked_settings, chosen_model, tile_plan
from inference.restorers import pcsr_restorer, settings_for
from models.pcsr import PCSR
from utils.dist import run_rank
from utils.errors import InputError


def main() -> None:
    parser = eval_parser("Evaluate a PCSR model under one setting or several; each image is encoded only once.")
    add_decision_options(parser)
    args = parser.parse_args()
    chosen = chosen_model(args.config, args.model)
    if not isinstance(chosen.model, PCSR):
        raise InputError(f"{args.model or args.config}: an original model; use test.py")
    model = chosen.model
    run_evaluation(
        args,
        lambda device, scale: pcsr_restorer(model, asked_settings(args, scale), device, tile_plan(args)),
        [str(setting) for setting in settings_for(model, asked_settings(args, args.scale[0]))],
        chosen,
    )


if __name__ == "__main__":
    run_rank(main)
