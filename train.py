"""Train an original model: python train.py --config configs/carn-x4.yaml"""

from training.command import check_original, run_training, train_parser
from utils.dist import run_rank


def main() -> None:
    run_training(train_parser("Train an original model.").parse_args(), check_original)


if __name__ == "__main__":
    run_rank(main)
