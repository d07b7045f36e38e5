"""Folds BatchNorm, which is a linear map per channel in eval mode, into the convolution before it."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def folded(module: M) -> M:
    """A copy in eval mode, without gradients, in which every Sequential's Conv2d + BatchNorm is one Conv2d."""
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for i in range(len(sequence) - 1):
            conv, norm = sequence[i], sequence[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                sequence[i], sequence[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return module
