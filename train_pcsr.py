"""Train PCSR, phase 0 then phase 1: python train_pcsr.py --config configs/carn-pcsr-phase0.yaml"""

from training.command import pcsr_config, run_training, train_parser
from utils.dist import run_rank


def main() -> None:
    args = train_parser("Train PCSR, phase 0 or phase 1.").parse_args()
    run_training(args, pcsr_config(args))


if __name__ == "__main__":
    run_rank(main)
