"""Rules other than the classifier's that choose the heavy pixels: for experiments, with two upsamplers.

A rule is a score map (b,H,W). `heaviest` ranks it and makes a share of the pixels heavy, so that all rules have the
same FLOPs. An assignment is (b,H,W) uint8, 0 = light and 1 = heavy, as in models/decide.py. The classifier's own score
is its log odds: ranking them gives the same as the paper's k rule at the k of that share.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.grid import bilinear, grid_over
from utils.errors import InputError

DITHER = 0.5  # random numbers below this part of a rank order the pixels of one patch, but not two patches


def heaviest(score: Tensor, share: float) -> Tensor:
    """The `share` of all pixels that score highest is heavy; of equal ones the first in scan order.

    score (b,H,W), finite, and share in [0,1] -> assignment (b,H,W) with exactly round(share * b*H*W) heavy pixels.
    Raises InputError for another share.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share {share:g}: must lie between 0 and 1")
    flat = score.flatten()
    count = round(share * len(flat))
    if count == 0:
        return torch.zeros_like(score, dtype=torch.uint8)
    edge = flat.kthvalue(len(flat) - count + 1).values
    chosen = flat > edge
    on_edge = flat == edge
    chosen |= on_edge & (on_edge.cumsum(0) <= count - chosen.sum())
    return chosen.view_as(score).to(torch.uint8)


def random_score(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0,1) at every pixel of a map (b,H,W), from a CPU's generator: the same on all devices."""
    return torch.rand(like.shape, generator=generator).to(like.device)


def patch_score(score: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Ranks whole patches of side x side pixels by their mean, as a method that distributes patches could do.

    score (b,H,W) -> (b,H,W). The grid starts at the top left; patches at the other edges may be smaller. The share
    seldom falls between two patches: in the last patch that is chosen, as many pixels are heavy as the share still
    allows, drawn at random. The expected squared error then lies between those without and with that patch.
    """
    mean = F.avg_pool2d(score[:, None], side, ceil_mode=True)[:, 0]  # (b,n,m), of the pixels there are
    rank = mean.flatten().argsort(descending=True, stable=True).argsort().view_as(mean).to(score.dtype)
    below = rank.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : score.shape[1], : score.shape[2]]
    return DITHER * random_score(score, generator).to(score.dtype) - below


def gradient_score(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Gradient magnitude of lr (b,3,h,w), central differences over all channels, made HR bilinearly: (b,H,W)."""
    near = F.pad(lr, (1, 1, 1, 1), mode="replicate")
    down = near[..., 2:, 1:-1] - near[..., :-2, 1:-1]
    across = near[..., 1:-1, 2:] - near[..., 1:-1, :-2]
    magnitude = (down.square() + across.square()).sum(1, keepdim=True).sqrt() / 2  # (b,1,h,w)
    return bilinear(magnitude, grid_over(lr, size))[:, 0]


def squared_error(sr: Tensor, hr: Tensor) -> Tensor:
    """The squared error, summed over RGB: two (b,3,H,W) -> (b,H,W).

    The error of the light upsampler minus that of the heavy one is the score of the oracle, which knows HR: no
    assignment with the same share has a lower sum of errors.
    """
    return (sr - hr).square().sum(1)


def compose(light: Tensor, heavy: Tensor, assignment: Tensor) -> Tensor:
    """sr (b,3,H,W) of an assignment (b,H,W) from both upsamplers' images: exact, as each pixel is from one of them."""
    return torch.where(assignment[:, None] == 1, heavy, light)
