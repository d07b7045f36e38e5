"""Train an original model: python train.py --config configs/carn-x4.yaml"""

import torch
from torch import Tensor

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, Row, evaluate
from inference.restore import original_restorer
from models.blocks import Backbone
from models.build import build_original
from models.checkpoint import load_model
from training.engine import Task, read_config, run_folder, train, train_parser
from training.losses import deviation
from utils.config import OriginalSpec
from utils.dist import run_rank, start_ranks, stop_ranks
from utils.errors import InputError


class OriginalTask(Task[Backbone]):
    """The loss between SR and HR, L1 in the paper."""

    def __init__(self, model: Backbone, loss: str = "l1") -> None:
        super().__init__(model)
        self.loss = loss

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        return {"loss": deviation(self.model(lr) - hr, self.loss).mean()}


def start_from(model: Backbone, path: str) -> None:
    """Take the weights of another training. Raises InputError if the file is not the same model."""
    trained, _ = load_model(path)
    try:
        model.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise InputError(f"train.init: {path} is another model than this config's") from None


def main() -> None:
    args = train_parser("Train an original model.").parse_args()
    config = read_config(args)
    spec = config.model
    if not isinstance(spec, OriginalSpec):
        raise InputError(f"{args.config}: describes a PCSR model; use train_pcsr.py")
    if isinstance(config.data.scale, tuple):
        raise InputError(f"{args.config}: data.scale is a range, but an original model has one scale; set {spec.scale}")
    if spec.scale != config.data.scale:
        raise InputError(f"{args.config}: model.scale is {spec.scale} but data.scale is {config.data.scale}")
    ranks = start_ranks(args.device)
    folder, resume = run_folder(args, ranks)
    torch.manual_seed(config.train.seed)
    model = build_original(spec)
    if config.train.init is not None and not resume:
        start_from(model, config.train.init)
    pairs = list(PairedFolder(config.data.val, None, spec.scale, not config.data.lr_round, ranks.rank, ranks.world))
    protocol = Protocol(spec.scale, with_ssim=False)

    def validate(model: Backbone) -> list[Row]:
        return evaluate(pairs, original_restorer(model, ranks.device), protocol)

    train(config, OriginalTask(model, config.train.loss), validate, folder, ranks, resume)
    stop_ranks(ranks)


if __name__ == "__main__":
    run_rank(main)
