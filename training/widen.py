"""A wider encoder that begins as a trained narrower one (after Net2Net, Chen et al., ICLR 2016, arXiv 1511.05641)."""

import torch
from torch import Tensor, nn


def widen(wide: nn.Module, narrow: nn.Module, widths: tuple[int, int]) -> range:
    """Give `wide` the weights of `narrow`, so that as many of its channels compute the same as those of `narrow`.

    The other channels keep their random weights, scaled to the norm of the trained ones; at first the trained channels
    do not read them. `widths` are those of the two encoders. Returns the channels that are added to the first group.
    Raises ValueError if `wide` is not the same network with more channels.
    """
    groups = max((conv.groups for conv in wide.modules() if isinstance(conv, nn.Conv2d)), default=1)
    if any(width % groups for width in widths):  # such as one group for each channel, of which the narrower has fewer
        raise ValueError("the encoders have other groups")
    parts = widths[0] // groups, widths[1] // groups
    tensors, trained = wide.state_dict(), narrow.state_dict()
    if tensors.keys() != trained.keys():
        raise ValueError("the encoders have other layers")
    for name, source in trained.items():
        tensor = tensors[name]  # shares its memory with the weights of `wide`
        places = [positions((to, of), parts) for to, of in zip(tensor.shape[:2], source.shape[:2], strict=True)]
        if len(places) == 2:
            if tensor.any():  # a network may begin some layers as zeros
                tensor *= source.flatten(1).norm(dim=1).mean() / tensor.flatten(1).norm(dim=1).mean()
            tensor[places[0]] = 0
        elif len(places) == 1:
            tensor.fill_(source.mean())
        tensor[torch.meshgrid(*places, indexing="ij") if places else ...] = source
    return range(parts[1], parts[0])


def positions(sizes: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    """Where the channels of the narrower layer are in the wider one. Each `parts` channels are widened by themselves:
    a group of a convolution, or one of several images that are put together."""
    (to, of), (wide, narrow) = sizes, parts
    if to == of:
        return torch.arange(of)
    if to < of or to % wide or of % narrow or to // wide != of // narrow:
        raise ValueError(f"{of} channels cannot become {to}")
    channel = torch.arange(of)
    return channel // narrow * wide + channel % narrow
