"""PCSR: pixel-level classifier for single image super-resolution (ECCV 2024, arXiv 2407.21448).

`PCSR.forward` is the method, in the order of the paper's section 3: encode, classify, decide, upsample, refine. It
works on whole images on any device, is differentiable, and is the reference that the faster code of models/fast is
tested against. It differs from the paper's formulation in the order of the arithmetic (see models/mlp.py and
models/grid.py), keeps rel_cell within the range of the training, and adds the rule `budget`.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decide import decide, probabilities
from models.flops import pcsr_flops
from models.grid import ANY, Grid, bilinear, grid_over
from models.mlp import PixelMLP
from models.setting import Setting


class Output(NamedTuple):
    """The results of a batch of LR images."""

    sr: Tensor  # (b,3,H,W), not clamped
    assignment: Tensor  # (b,H,W) uint8, the upsampler of each pixel: 0 = light .. M-1 = heavy
    prob: Tensor  # (b,M,H,W), the classifier's probability of each upsampler


class PCSR(nn.Module):
    """Encoder, M upsamplers ordered light .. heavy, and a classifier over them.

    With a single upsampler and no classifier it is the model of training phase 0 (paper).
    """

    mean: Tensor

    def __init__(
        self, encoder: nn.Module, upsamplers: Sequence[PixelMLP], classifier: PixelMLP | None, mean: Sequence[float]
    ) -> None:
        super().__init__()
        if (classifier is None) != (len(upsamplers) == 1):
            raise ValueError("several upsamplers need a classifier, a single one needs none")
        if classifier is not None and classifier.out_channels != len(upsamplers):
            raise ValueError("the classifier must have one logit per upsampler")
        self.encoder = encoder
        self.upsamplers = nn.ModuleList(upsamplers)
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.cell_limits = ANY  # of rel_cell: those of the training, once trained weights are loaded
        self.flops = pcsr_flops(encoder, upsamplers, classifier)  # FLOPs of the parts, which decisions need

    def forward(self, lr: Tensor, size: tuple[int, int], setting: Setting) -> Output:
        """lr (b,3,h,w) in [0,1] -> an HR image of `size` = (H,W) under one setting.

        The scale of the setting only prices the upsamplers; `size` alone decides how large the result is.
        Raises InputError for a budget that cannot be met.
        """
        grid = grid_over(lr, size, self.cell_limits)
        feat = self.encode(lr)  # (b,c,h,w)
        log_odds = self.classify(feat, grid)  # (b,M-1,H,W)
        assignment = self.decide(log_odds, setting)  # (b,H,W)
        sr = self.upsample(lr, feat, grid, assignment)  # (b,3,H,W)
        if setting.refinement:
            sr = refine(sr, assignment)
        return Output(sr, assignment, probabilities(log_odds))

    def encode(self, lr: Tensor) -> Tensor:
        """lr (b,3,h,w) in [0,1] -> feat (b,c,h,w)."""
        return self.encoder(lr - self.mean)

    def classify(self, feat: Tensor, grid: Grid) -> Tensor:
        """feat (b,c,h,w) -> log(prob_j / prob_0) of the upsamplers j = 1 .. M-1 at every HR pixel, (b,M-1,H,W)."""
        if self.classifier is None:
            return feat.new_zeros(feat.shape[0], 0, grid.rows.index.shape[0], grid.cols.index.shape[0])
        logits = self.classifier(feat, grid).permute(0, 3, 1, 2)  # (b,M,H,W)
        return logits[:, 1:] - logits[:, :1]

    def decide(self, log_odds: Tensor, setting: Setting) -> Tensor:
        """log_odds (b,M-1,H,W) -> assignment (b,H,W) uint8 by the setting's rule."""
        return decide(log_odds.detach().float(), setting, self.flops)

    def upsample(self, lr: Tensor, feat: Tensor, grid: Grid, assignment: Tensor) -> Tensor:
        """sr (b,3,H,W): bilinear(lr), and at each pixel what the upsampler that assignment (b,H,W) names adds."""
        chosen = assignment.flatten()  # (b*H*W,)
        values = feat.new_zeros(chosen.shape[0], 3)
        for j, upsampler in enumerate(self.pixel_upsamplers):
            where = (chosen == j).nonzero()[:, 0]  # waits for the device: the count decides the shape
            values = values.index_put((where,), upsampler.at_pixels(feat, grid, where))  # not in place: differentiable
        return values.view(*assignment.shape, 3).permute(0, 3, 1, 2) + bilinear(lr, grid)

    def upsample_by(self, lr: Tensor, feat: Tensor, grid: Grid, index: int) -> Tensor:
        """sr (b,3,H,W) with upsampler `index`, which may count from the end, at every pixel."""
        return self.pixel_upsamplers[index](feat, grid).permute(0, 3, 1, 2) + bilinear(lr, grid)

    @property
    def pixel_upsamplers(self) -> list[PixelMLP]:
        """The upsamplers, light .. heavy, with the type that nn.ModuleList does not know."""
        return cast("list[PixelMLP]", list(self.upsamplers))

    def mlps(self) -> list[PixelMLP]:
        """All per-pixel MLPs: upsamplers light .. heavy, then the classifier if there is one."""
        return [*self.pixel_upsamplers, *([] if self.classifier is None else [self.classifier])]


def refine(sr: Tensor, assignment: Tensor) -> Tensor:
    """Refinement (paper): a pixel with a heavier 3x3 neighbour takes the mean of its neighbourhood.

    sr (b,3,H,W) and assignment (b,H,W) -> (b,3,H,W). The image's border rows and columns are left alone.
    """
    own = assignment[:, None].to(sr.dtype)  # (b,1,H,W)
    inside = F.avg_pool2d(torch.ones_like(own), 3, 1, 1) == 1  # a border pixel has zeros around it
    lighter = F.max_pool2d(own, 3, 1, 1) > own
    return torch.where(lighter & inside, F.avg_pool2d(sr, 3, 1, 1), sr)
