"""The paper's formulation written out plainly: benchmarks compare this project's with it.

Every HR pixel has coordinates, features are gathered by grid_sample, every Linear of an MLP runs on [feat, rel_coord,
rel_cell] of every pixel, and memory is channels-first.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.mlp import PixelMLP
from models.pcsr import PCSR
from training.tasks import Task

PIXELS_AT_ONCE = 300_000


def grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """Centres (H*W,2) of an image's pixels, y before x, in [-1,1]."""
    centres = [(2 * torch.arange(side, device=device) + 1) / side - 1 for side in size]
    return torch.cartesian_prod(*centres)


def mlp_input(feat: Tensor, coord: Tensor, size: tuple[int, int]) -> Tensor:
    """feat (b,c,h,w), the coords (b,N,2) of HR pixels -> [feat, rel_coord, rel_cell], (b,N,c+4)."""
    batch, channels, h, w = feat.shape
    own = grid((h, w), feat.device).t().view(1, 2, h, w).expand(batch, -1, -1, -1)
    read = F.grid_sample(torch.cat([feat, own], 1), coord.flip(-1)[:, None], mode="nearest", align_corners=False)
    read = read[:, :, 0].permute(0, 2, 1)  # (b,N,c+2)
    sides = torch.tensor([h, w], device=feat.device)
    offset = (coord - read[..., channels:]) * sides
    cell = (2 / torch.tensor(size, device=feat.device) * sides).expand_as(offset)
    return torch.cat([read[..., :channels], offset, cell], -1)


def run_mlp(mlp: PixelMLP, feat: Tensor, size: tuple[int, int]) -> Tensor:
    """An MLP at every HR pixel, differentiable: (b,H*W,out)."""
    coord = grid(size, feat.device).expand(feat.shape[0], -1, -1)
    return mlp.layers(mlp_input(feat, coord, size))


def training_loss(task: Task[Any], lr: Tensor, hr: Tensor) -> Tensor:
    """The loss of a batch, L1 and at every HR pixel, in the phase that the task is made for."""
    model, size = task.model, (hr.shape[2], hr.shape[3])
    if not isinstance(model, PCSR):
        return (model(lr) - hr).abs().mean()
    target = hr - F.interpolate(lr, size=size, mode="bilinear", align_corners=False)
    target = target.flatten(2).permute(0, 2, 1)  # (b,N,3)
    feat = model.encoder(lr - model.mean)
    if model.classifier is None:
        return (run_mlp(model.mlps()[0], feat, size) - target).abs().mean()
    *upsamplers, classifier = model.mlps()
    prob = run_mlp(classifier, feat, size).softmax(-1)
    sr = sum(prob[..., j : j + 1] * run_mlp(mlp, feat, size) for j, mlp in enumerate(upsamplers))
    half, spec = prob[..., -1].numel() / 2, task.spec
    return spec.loss_l1_w * (sr - target).abs().mean() + spec.loss_avg_w * (prob[..., -1].sum() - half).abs() / half


def restore(model: PCSR, lr: Tensor, size: tuple[int, int], k: float) -> tuple[Tensor, Tensor]:
    """SR (1,3,H,W) of one image, refined, and its assignment (1,H,W); each upsampler runs on its own pixels."""
    feat = model.encoder(lr - model.mean)
    coords = grid(size, lr.device)
    *upsamplers, classifier = model.mlps()

    def at(mlp: PixelMLP, coord: Tensor) -> Tensor:
        values = [mlp.layers(mlp_input(feat, some[None], size))[0] for some in coord.split(PIXELS_AT_ONCE)]
        return torch.cat(values)

    prob = at(classifier, coords).softmax(-1).t().view(1, -1, *size)
    cost = torch.tensor(model.flops.cost(size[0] / lr.shape[2]), device=lr.device)
    assignment = (prob / cost[:, None, None] ** k).argmax(1)
    residual = torch.empty(len(coords), 3, device=lr.device)
    for j, mlp in enumerate(upsamplers):
        chosen = (assignment.flatten() == j).nonzero()[:, 0]
        if len(chosen):
            residual[chosen] = at(mlp, coords[chosen])
    sr = residual.t().view(1, 3, *size) + F.interpolate(lr, size=size, mode="bilinear", align_corners=False)
    return unfold_refine(sr, assignment), assignment


def unfold_refine(sr: Tensor, assignment: Tensor) -> Tensor:
    """Refinement, with nine copies of the image."""
    height, width = sr.shape[-2:]
    near = F.unfold(assignment[:, None].float(), 3)  # (1,9,N)
    mean = torch.stack([F.unfold(sr[:, c : c + 1], 3).mean(1) for c in range(3)], 1).view(1, 3, height - 2, width - 2)
    lighter = (near.amax(1) > near[:, 4]).view(1, 1, height - 2, width - 2)
    refined = sr.clone()
    refined[..., 1:-1, 1:-1] = torch.where(lighter, mean, sr[..., 1:-1, 1:-1])
    return refined
