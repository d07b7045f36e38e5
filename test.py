"""Evaluate an original model: python test.py --config configs/carn-x4.yaml --hr_data DIR --per_image"""

from models.blocks import Backbone
from utils.device import pick_device
from utils.errors import InputError, run
from utils.options import chosen_model, eval_parser, run_evaluation
from utils.restore import original_restorer


def main() -> None:
    args = eval_parser("Evaluate an original model.").parse_args()
    device = pick_device(args.device)
    model, _, name = chosen_model(args)
    if not isinstance(model, Backbone):
        raise InputError(f"{args.model or args.config}: a PCSR model; use test_pcsr.py")
    run_evaluation(args, original_restorer(model, device), name)


if __name__ == "__main__":
    run(main)
