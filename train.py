"""Train an original model: python train.py --config configs/carn-x4.yaml"""

from training.command import original_config, run_training, train_parser
from utils.dist import run_rank


def main() -> None:
    args = train_parser("Train an original model.").parse_args()
    run_training(args, original_config(args))


if __name__ == "__main__":
    run_rank(main)
