"""An original CARN that begins with the encoder of a PCSR model begins as an interpolation, too.

PCSR adds what it computes to the interpolated LR image, so that the features of its encoder hold little of the image
itself. The original CARN adds nothing, and would have to learn to pass the image through all its layers.
"""

from collections.abc import Sequence

import torch
from torch import nn

from models.carn import CARNEncoder, CARNTail
from models.original import OriginalModel

CARRIED = 3  # red, green and blue
LIFT = 1.0  # added to the values of the image on its way: more than the mean that is subtracted, so ReLUs keep them
FIRST = 0.1  # by which all other weights of the last layer are multiplied: the image changes little at first


@torch.no_grad()
def carry_image(model: OriginalModel, added: range) -> bool:
    """Let three of the channels that are added to the encoder carry the LR image to the end, and interpolate it there.

    Returns whether the model is a CARN with three added channels; otherwise nothing is changed.
    """
    encoder, tail = model.encoder, model.tail
    if not (isinstance(encoder, CARNEncoder) and isinstance(tail, CARNTail) and len(added) >= CARRIED):
        return False
    channels = list(added[:CARRIED])
    fuse, norm, _ = encoder.fuse[-1].children()
    assert isinstance(fuse, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert encoder.entry.bias is not None and tail.exit.bias is not None
    assert norm.running_mean is not None and norm.running_var is not None
    for weights in (encoder.entry.weight, fuse.weight, norm.bias, norm.running_mean):
        weights[channels] = 0
    norm.weight[channels], norm.running_var[channels] = 1, 1 - norm.eps
    fuse.weight[channels, channels] = 1
    for layer in tail.shuffle:
        if isinstance(layer, nn.Conv2d):
            interpolate(layer, channels)
    tail.exit.weight *= FIRST
    tail.exit.weight[:, channels] = 0
    for colour, channel in enumerate(channels):
        encoder.entry.weight[channel, colour, 1, 1] = tail.exit.weight[colour, channel, 1, 1] = 1
    encoder.entry.bias[channels] = LIFT
    tail.exit.bias.fill_(-LIFT)
    return True


def interpolate(conv: nn.Conv2d, channels: Sequence[int]) -> None:
    """Make a convolution before a pixel shuffle interpolate these channels of its first group bilinearly."""
    assert conv.bias is not None
    factor = round((conv.out_channels / conv.in_channels) ** 0.5)
    offsets = [(i + 0.5) / factor - 0.5 for i in range(factor)]  # of the new pixels, in old pixels
    lines = torch.tensor([[max(-at, 0), 1 - abs(at), max(at, 0)] for at in offsets])
    kernels = torch.einsum("iy,jx->ijyx", lines, lines).flatten(0, 1)
    for channel in channels:
        rows = slice(channel * factor**2, (channel + 1) * factor**2)
        conv.weight[rows], conv.bias[rows] = 0, 0
        conv.weight[rows, channel] = kernels
