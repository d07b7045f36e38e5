"""Train PCSR, phase 0 then phase 1: python train_pcsr.py --config configs/carn-pcsr-phase0.yaml"""

from collections.abc import Sequence

import torch
from torch import Tensor

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, Row, evaluate
from inference.encoding import pcsr_restorer
from models.build import build_pcsr
from models.checkpoint import load_model
from models.fast.fold import folded
from models.mlp import rows_of
from models.pcsr import PCSR
from models.setting import Setting
from training.engine import Task, read_config, run_folder, train, train_parser
from training.losses import Piece, queries, summed
from utils.config import PCSRSpec, TrainSpec
from utils.dist import Ranks, run_rank, start_ranks, stop_ranks
from utils.errors import InputError


class Phase0(Task[PCSR]):
    """Encoder and heavy upsampler: the loss (paper: L1) of all HR pixels, or of `pixels_per_patch` random ones."""

    def __init__(self, model: PCSR, pixels_per_patch: int | None = None, loss: str = "l1") -> None:
        super().__init__(model)
        self.pixels_per_patch = pixels_per_patch
        self.loss = loss

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        (heavy,) = self.model.mlps()
        chosen = queries(lr, hr, self.pixels_per_patch)

        def share(tables: Sequence[Tensor], piece: Piece) -> Tensor:
            return piece.loss(heavy.at(tables[0], piece.nearest, piece.coords), self.loss)

        tables = [heavy.project(rows_of(self.model.encode(lr)))]
        return {"loss": summed(share, tables, list(heavy.parameters()), list(chosen.pieces(self.loss)))}


class Phase1(Task[PCSR]):
    """Light upsamplers and classifier; encoder and heavy are frozen and in eval mode (paper)."""

    def __init__(
        self,
        model: PCSR,
        loss_l1_w: float,
        loss_avg_w: float,
        ranks: Ranks,
        pixels_per_patch: int | None = None,
        loss: str = "l1",
    ) -> None:
        super().__init__(model)
        self.loss_l1_w = loss_l1_w
        self.loss_avg_w = loss_avg_w
        self.ranks = ranks
        self.pixels_per_patch = pixels_per_patch
        self.loss = loss
        self.frozen = [model.encoder, model.upsamplers[-1]]
        for module in self.frozen:
            module.requires_grad_(False)
        self.fold()

    def fold(self) -> None:
        # in a list, so that it is no part of this module: the copy is neither saved nor synchronised
        self.encoder = [folded(self.model.encoder)]

    def train(self, mode: bool = True) -> "Phase1":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        self.fold()  # the copy follows the weights that a resumed run loads, and their device
        return self

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        *light, heavy, classifier = mlps = self.model.mlps()
        with torch.no_grad():
            feat = rows_of(self.encoder[0](lr - self.model.mean))  # (b*h*w,c)
        tables = [mlp.project(feat) for mlp in mlps]
        chosen = queries(lr, hr, self.pixels_per_patch)
        pieces = list(chosen.pieces(self.loss))
        pixels = chosen.nearest.numel()

        # |sum prob_heavy - N/2| / (N/2) is one of two linear functions of prob_heavy; which one, the sign decides. With
        # it known in advance (and agreed on by all processes) the whole loss is a sum over pixels.
        def heavy_sum(tables: Sequence[Tensor], piece: Piece) -> Tensor:
            return probabilities(classifier.at(tables[-1], piece.nearest, piece.coords))[-1].sum()

        with torch.no_grad():
            heavy_share = self.ranks.mean(summed(heavy_sum, tables, [], pieces) / pixels)
        sign = (2 * heavy_share - 1).sign()

        def mixture(tables: Sequence[Tensor], piece: Piece) -> Tensor:
            prob = probabilities(classifier.at(tables[-1], piece.nearest, piece.coords))  # (M,n)
            with torch.no_grad():
                fixed = heavy.at(tables[-2], piece.nearest, piece.coords)  # (n,3)
            mixed = prob[-1, :, None] * fixed
            for j, mlp in enumerate(light):
                mixed = mixed + prob[j, :, None] * mlp.at(tables[j], piece.nearest, piece.coords)
            return self.loss_l1_w * piece.loss(mixed, self.loss) + self.loss_avg_w * sign * 2 * prob[-1].sum() / pixels

        learnt = [parameter for mlp in (*light, classifier) for parameter in mlp.parameters()]
        loss = summed(mixture, tables, learnt, pieces) - self.loss_avg_w * sign
        average = (2 * heavy_share - 1).abs()
        reconstruction = (loss.detach() - self.loss_avg_w * average) / self.loss_l1_w
        return {"loss": loss, self.loss: reconstruction, "average": average, "heavy_share": heavy_share}


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of logits (n,M) -> (M,n), several times as fast on a CPU as along a dimension of two."""
    return logits.t().softmax(0)


def start_from(model: PCSR, path: str) -> None:
    """Take encoder and heavy upsampler from a PCSR model. Raises InputError if the file has not the same ones."""
    trained, _ = load_model(path)
    if not isinstance(trained, PCSR):
        raise InputError(f"train.init: {path} is an original model, not a PCSR phase 0")
    try:
        model.encoder.load_state_dict(trained.encoder.state_dict())
        model.upsamplers[-1].load_state_dict(trained.upsamplers[-1].state_dict())
    except RuntimeError:
        raise InputError(f"train.init: {path} has another encoder or heavy upsampler than this config") from None


def build_task(spec: TrainSpec, model: PCSR, ranks: Ranks, resume: bool) -> Task[PCSR]:
    """The phase's task. Raises InputError if the model is not one of that phase, or phase 0's weights do not fit."""
    several = len(model.upsamplers) > 1
    if spec.phase == 0:
        if several:
            raise InputError("model.upsamplers: phase 0 trains one upsampler, the heavy one; phase 1 adds the others")
        if spec.init is not None and not resume:
            start_from(model, spec.init)
        return Phase0(model, spec.pixels_per_patch, spec.loss)
    if not several:
        raise InputError("model.upsamplers: phase 1 needs two or more, light .. heavy")
    if spec.init is None:
        raise InputError("train.init: phase 1 needs the path of phase 0's weights")
    if not resume:  # the state then has all weights
        start_from(model, spec.init)
    return Phase1(model, spec.loss_l1_w, spec.loss_avg_w, ranks, spec.pixels_per_patch, spec.loss)


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
    task = build_task(config.train, model, ranks, resume)
    _, scale = config.data.scales
    pairs = list(PairedFolder(config.data.val, None, scale, not config.data.lr_round, ranks.rank, ranks.world))
    protocol = Protocol(scale, with_ssim=False)

    def validate(model: PCSR) -> list[Row]:
        return evaluate(pairs, pcsr_restorer(model, [Setting(scale=scale)], ranks.device), protocol)

    train(config, task, validate, folder, ranks, resume)
    stop_ranks(ranks)


if __name__ == "__main__":
    run_rank(main)
