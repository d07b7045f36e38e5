"""Train PCSR, phase 0 then phase 1: python train_pcsr.py --config configs/carn-pcsr-phase0.yaml"""

import torch
from torch import Tensor

from datasets.folder import PairedFolder
from models.build import build_pcsr
from models.pcsr import PCSR
from utils.checkpoint import load_model
from utils.config import Config, PCSRSpec
from utils.dist import run_rank, start_ranks, stop_ranks
from utils.engine import Task, read_config, run_folder, train, train_parser
from utils.errors import InputError
from utils.evaluate import Protocol, Row, evaluate
from utils.restore import REFINE, Setting, pcsr_restorer


class Phase0(Task[PCSR]):
    """Encoder and heavy upsampler: L1 over all HR pixels (paper)."""

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        sr = self.model.upsample_with(self.model.encode(lr), (hr.shape[2], hr.shape[3]), -1)
        return {"loss": (sr - hr).abs().mean()}


class Phase1(Task[PCSR]):
    """Light upsamplers and classifier; encoder and heavy are frozen and in eval mode (paper)."""

    def __init__(self, model: PCSR, loss_l1_w: float, loss_avg_w: float) -> None:
        super().__init__(model)
        self.loss_l1_w = loss_l1_w
        self.loss_avg_w = loss_avg_w
        self.frozen = [model.encoder, model.upsamplers[-1]]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Phase1":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        model, size = self.model, (hr.shape[2], hr.shape[3])
        encoded = model.encode(lr)  # the frozen encoder keeps nothing for gradients; the first layers do
        with torch.no_grad():
            heavy = model.upsample_with(encoded, size, -1)
        prob = model.classify(encoded, size)  # (b,M,H,W)
        light = [model.upsample_with(encoded, size, j) for j in range(len(model.upsamplers) - 1)]
        sr = sum(prob[:, j : j + 1] * sr_j for j, sr_j in enumerate([*light, heavy]))  # (b,3,H,W)
        l1 = (sr - hr).abs().mean()
        heavy_share = prob[:, -1].mean()
        average = (2 * heavy_share - 1).abs()  # |sum prob_heavy - N/2| / (N/2)
        loss = self.loss_l1_w * l1 + self.loss_avg_w * average
        return {"loss": loss, "l1": l1, "average": average, "heavy_share": heavy_share}


def start_phase1(model: PCSR, path: str) -> None:
    """Take encoder and heavy upsampler from phase 0. Raises InputError if the file is not phase 0 of this model."""
    phase0, _ = load_model(path)
    if not isinstance(phase0, PCSR):
        raise InputError(f"train.init: {path} is an original model, not a PCSR phase 0")
    try:
        model.encoder.load_state_dict(phase0.encoder.state_dict())
        model.upsamplers[-1].load_state_dict(phase0.upsamplers[-1].state_dict())
    except RuntimeError:
        raise InputError(f"train.init: {path} has another encoder or heavy upsampler than this config") from None


def build_task(config: Config, model: PCSR) -> Task[PCSR]:
    """The phase's task. Raises InputError if the model is not one of that phase, or phase 0's weights do not fit."""
    several = len(model.upsamplers) > 1
    if config.train.phase == 0:
        if several:
            raise InputError("model.upsamplers: phase 0 trains one upsampler, the heavy one; phase 1 adds the others")
        return Phase0(model)
    if not several:
        raise InputError("model.upsamplers: phase 1 needs two or more, light .. heavy")
    if config.train.init is None:
        raise InputError("train.init: phase 1 needs the path of phase 0's weights")
    start_phase1(model, config.train.init)
    return Phase1(model, config.train.loss_l1_w, config.train.loss_avg_w)


def main() -> None:
    args = train_parser("Train PCSR, phase 0 or phase 1.").parse_args()
    config = read_config(args)
    if not isinstance(config.model, PCSRSpec) or config.train.phase is None:
        raise InputError(
            f"{args.config}: needs a model of kind pcsr and train.phase 0 or 1; use train.py for originals"
        )
    ranks = start_ranks(args.device)
    folder, resume = run_folder(args, ranks)
    torch.manual_seed(config.train.seed)
    model = build_pcsr(config.model)
    task = build_task(config, model)
    scale = config.data.scale
    pairs = list(PairedFolder(config.data.val, None, scale, not config.data.lr_round, ranks.rank, ranks.world))
    protocol = Protocol(scale, with_ssim=False)

    def validate() -> list[Row]:
        return evaluate(pairs, pcsr_restorer(model, [Setting("k")], REFINE, ranks.device), protocol)

    train(config, task, validate, folder, ranks, resume)
    stop_ranks(ranks)


if __name__ == "__main__":
    run_rank(main)
