"""Train PCSR, phase 0 then phase 1: python train_pcsr.py --config configs/carn-pcsr-phase0.yaml"""

from training.command import check_pcsr, run_training, train_parser
from utils.dist import run_rank


def main() -> None:
    run_training(train_parser("Train PCSR, phase 0 or phase 1.").parse_args(), check_pcsr)


if __name__ == "__main__":
    run_rank(main)
