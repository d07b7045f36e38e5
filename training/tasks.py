"""What is trained: an original model, or one of the two phases of PCSR (paper, section on training)."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.fast.accelerate import FastMLP, fast
from models.fast.fold import folded
from models.fast.pixel_errors import pixel_errors
from models.fast.pixels import bilinear_compiled
from models.grid import bilinear
from models.mlp import PixelMLP, rows_of
from models.original import OriginalModel
from models.pcsr import PCSR
from training.losses import LOSSES, gain_loss, group_loss, summed
from training.queries import Group, Interpolate, queries
from utils.config import TrainSpec
from utils.dist import Ranks

Model = TypeVar("Model", OriginalModel, PCSR)


class Task(nn.Module, Generic[Model]):
    """forward(lr, hr) returns scalar losses, of which `loss` is minimised and the others are logged.

    lr (b,3,h,w) and hr (b,3,H,W) are in [0,1]. A task is made from the weights that its training begins with.
    """

    def __init__(self, model: Model, spec: TrainSpec) -> None:
        super().__init__()
        self.model: Model = model
        self.spec = spec
        self.loss = LOSSES[spec.loss]


class OriginalTask(Task[OriginalModel]):
    """The loss between SR and HR, L1 in the paper."""

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss.of_patches(self.model(lr) - hr).mean()}


class Phase0(Task[PCSR]):
    """Encoder and heavy upsampler: the loss (paper: L1) of all HR pixels, or of `pixels_per_patch` random ones."""

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        (heavy,) = self.model.mlps()
        chosen = queries(lr, hr, self.spec.pixels_per_patch, interpolation(heavy, lr))
        table = heavy.project(rows_of(self.model.encode(lr)))  # (b*h*w,C)
        if self.loss.kernel and isinstance(heavy, FastMLP) and heavy.trains_from(table):
            pixels = chosen.across, chosen.nearest, chosen.coords, chosen.target
            errors = pixel_errors(heavy, table, *pixels, absolute=self.loss.kernel == "absolute")  # (b,)
            return {"loss": self.loss.of_mean(errors).mean()}

        def reconstruction(tables: Sequence[Tensor], group: Group) -> Tensor:
            return group_loss(heavy.at(tables[0], group.nearest, group.coords), group, self.loss)

        groups = chosen.groups(self.loss.whole_patches)
        return {"loss": summed(reconstruction, [table], list(heavy.parameters()), groups)}


class Phase1(Task[PCSR]):
    """Light upsamplers and classifier; encoder and heavy upsampler are frozen and in eval mode (paper).

    loss_l1_w * L1(sum_j prob_j * sr_j, hr) + loss_avg_w * |sum prob_heavy - N/2| / (N/2), with N queried pixels.
    """

    def __init__(self, model: PCSR, spec: TrainSpec, ranks: Ranks) -> None:
        super().__init__(model, spec)
        self.ranks = ranks
        self.encoder = folded(model.encoder)  # computes the same, faster
        self.frozen = [model.encoder, model.upsamplers[-1], self.encoder]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Phase1":
        super().train(mode)
        for module in self.frozen:
            module.eval()  # or BatchNorm would go on collecting statistics
        return self

    def tables(self, lr: Tensor) -> list[Tensor]:
        """The table (b*h*w,C) of each of `mlps()`: light .. heavy, then the classifier; from lr (b,3,h,w)."""
        # the kernels of CPUs then need not keep anything for gradients; elsewhere torch 2.11 cannot compile it
        with torch.inference_mode(lr.device.type == "cpu"), torch.no_grad():
            feat = rows_of(self.encoder(lr - self.model.mean))  # (b*h*w,c)
        feat = feat.clone()  # a tensor that gradients may flow past
        return [mlp.project(feat) for mlp in self.model.mlps()]

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        *light, heavy, classifier = self.model.mlps()
        tables, spec = self.tables(lr), self.spec
        chosen = queries(lr, hr, spec.pixels_per_patch, interpolation(heavy, lr))
        groups, pixels = chosen.groups(self.loss.whole_patches), chosen.nearest.numel()

        def probabilities(tables: Sequence[Tensor], group: Group) -> Tensor:
            """(M,n); transposed, as a softmax along a dimension of two is several times slower on a CPU."""
            return classifier.at(tables[-1], group.nearest, group.coords).t().softmax(0)

        def heavy_sum(tables: Sequence[Tensor], group: Group) -> Tensor:
            return probabilities(tables, group)[-1].sum()

        # |sum prob_heavy - N/2| / (N/2) is one of two linear functions of prob_heavy; which one, the sign decides. With
        # it known in advance (and agreed on by all processes) the whole loss is a sum over pixels.
        with torch.no_grad():
            heavy_share = self.ranks.mean(summed(heavy_sum, tables, [], groups) / pixels)
        sign = (2 * heavy_share - 1).sign()

        def weighted(tables: Sequence[Tensor], group: Group) -> Tensor:
            prob = probabilities(tables, group)
            with torch.no_grad():
                heavy_sr = heavy.at(tables[-2], group.nearest, group.coords)  # (n,3), as are the others
            mixed = prob[-1, :, None] * heavy_sr
            for j, mlp in enumerate(light):
                mixed = mixed + prob[j, :, None] * mlp.at(tables[j], group.nearest, group.coords)
            reconstruction = group_loss(mixed, group, self.loss)
            return spec.loss_l1_w * reconstruction + spec.loss_avg_w * sign * 2 * prob[-1].sum() / pixels

        learnt = [parameter for mlp in (*light, classifier) for parameter in mlp.parameters()]
        loss = summed(weighted, tables, learnt, groups) - spec.loss_avg_w * sign
        balance = (2 * heavy_share - 1).abs()
        reconstruction = (loss.detach() - spec.loss_avg_w * balance) / spec.loss_l1_w
        return {"loss": loss, spec.loss: reconstruction, "balance": balance, "heavy_share": heavy_share}


class Phase1Gains(Phase1):
    """As Phase1, with other losses: each light upsampler learns alone, and the classifier learns what each one gains.

    The sum of the losses of the light upsamplers, and of `gain_loss` for the classifier, means over the queried pixels.
    """

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        *light, heavy, classifier = self.model.mlps()
        tables, spec = self.tables(lr), self.spec
        chosen = queries(lr, hr, spec.pixels_per_patch, interpolation(heavy, lr))
        cost = self.model.flops.cost(hr.shape[-1] / lr.shape[-1])
        logged: list[Tensor] = []  # what each group adds to the losses of the upsamplers, and to the heavy share

        def losses(tables: Sequence[Tensor], group: Group) -> Tensor:
            values = [mlp.at(table, group.nearest, group.coords) for mlp, table in zip(light, tables, strict=False)]
            logits = classifier.at(tables[-1], group.nearest, group.coords)
            with torch.no_grad():
                heavy_values = heavy.at(tables[-2], group.nearest, group.coords)  # (n,3), as are the others
                errors = torch.stack([(sr - group.target).square().mean(1) for sr in (*values, heavy_values)])
            reconstruction = torch.stack([group_loss(sr, group, self.loss) for sr in values]).sum()
            *lighter, own = logits.detach().t()
            is_heavy = torch.stack([own > other for other in lighter]).all(0)
            logged.append(torch.stack([reconstruction.detach(), group.share * is_heavy.float().mean()]))
            return reconstruction + gain_loss(logits, errors, cost, spec.gain_price, group)

        learnt = [parameter for mlp in (*light, classifier) for parameter in mlp.parameters()]
        loss = summed(losses, tables, learnt, chosen.groups(whole_images=True))  # as a gain is relative to its patch
        reconstruction, heavy_share = torch.stack(logged).sum(0)
        gains = loss.detach() - reconstruction
        return {"loss": loss, spec.loss: reconstruction, "gains": gains, "heavy_share": heavy_share}


def interpolation(mlp: PixelMLP, lr: Tensor) -> Interpolate:
    """The fastest way to the bilinear residual: a kernel where the model has been given kernels."""
    return bilinear_compiled if isinstance(mlp, FastMLP) and fast(lr, torch.float32) else bilinear


def build_task(spec: TrainSpec, model: OriginalModel | PCSR, ranks: Ranks) -> Task[Any]:
    """The task of an original model, or of the config's phase."""
    if isinstance(model, OriginalModel):
        return OriginalTask(model, spec)
    if spec.phase == 0:
        return Phase0(model, spec)
    return Phase1Gains(model, spec, ranks) if spec.phase1_loss == "gains" else Phase1(model, spec, ranks)
