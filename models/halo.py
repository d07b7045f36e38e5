"""How much of an image a network must see around a tile, found by experiments on small images."""

import copy
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.tile import Halo, Tile, with_halo

ACROSS = 17  # pixels across the images, which are long and narrow; odd, and enough for windows that are padded
PERIODS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
SAME = 1e-4  # of the largest value: what rounding and the order of sums may change
FARTHEST = 256  # LR pixels; tiles with a larger halo would not pay

Probe = Callable[[Tensor], Tensor]


@torch.inference_mode(False)  # outside of which the kernels of models/fast leave the arithmetic to torch
@torch.no_grad()
def find_halo(network: nn.Module) -> Halo | None:
    """The halo of a network's tiles; None, and a line on stderr, if it must see the whole image.

    A network that divides the image into windows or cells is the same for tiles that begin where its windows do. One
    that knows where a pixel lies, or how large the image is, has no such tiles. Takes up to some seconds.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    try:
        far = reach(network)
        halos = [] if far is None else [Halo(far + period - 1, period) for period in PERIODS]
        found = next((halo for halo in halos if all(same_in_tiles(probe, halo) for probe in both_ways(network))), None)
    except Exception:  # a network need not take images of all sizes
        found = None
    if found is None:
        reason = "what it computes depends on the whole image or on where a pixel lies"
        print(f"this network cannot work in tiles ({reason}): it works on whole images", file=sys.stderr)
    return found


def both_ways(network: nn.Module) -> tuple[Probe, Probe]:
    """The network on images (b,3,h,w), and on such that are given with their sides exchanged."""
    return network, lambda image: network(image.transpose(2, 3)).transpose(2, 3)


@torch.no_grad()
def reach(network: nn.Module) -> int | None:
    """How far, in LR pixels, an input pixel influences the output of a network; None if farther than FARTHEST.

    Not-a-number spreads through all arithmetic, so one such pixel shows how far its influence goes.
    """
    radius = 16
    while radius <= FARTHEST:
        far, length = 0, 2 * radius + 1
        for probe in both_ways(network):
            image = noise(length)
            image[..., ACROSS // 2, radius] = math.nan
            spread = probe(image)[0].isnan().any(1).any(0)  # (length * scale,)
            columns = spread.nonzero() // (len(spread) // length)
            far = max(far, int((columns - radius).abs().max()))
        if far < radius:
            return far
        radius *= 2
    return None


def same_in_tiles(probe: Probe, halo: Halo) -> bool:
    """Whether tiles with no more than their halo are computed as in the whole image: one in the middle, at all places
    within a period, and one at either end, where a network may read from the other."""
    far, period = halo
    start, tile_width = far + period, -2 * far % period + 4 * period  # then the halo ends where a period does
    stop = start + tile_width
    image = noise(stop + far + period + 1)  # whose end is no multiple
    length = image.shape[-1]
    whole = probe(image)
    scale = whole.shape[-1] // length
    for line in (slice(start, stop), slice(0, period), slice(length - period, length)):
        tile = Tile(slice(0, ACROSS), line)
        seen, inside = with_halo(image, tile, halo)
        (rows, cols), (own_rows, own_cols) = tile.times(scale), inside.times(scale)
        difference = whole[..., rows, cols] - probe(seen)[..., own_rows, own_cols]
        if not difference.abs().max() <= SAME * whole.abs().max():
            return False
    return True


def noise(length: int) -> Tensor:
    """An image (1,3,ACROSS,length), the same in every run."""
    return torch.rand(1, 3, ACROSS, length, generator=torch.Generator().manual_seed(0))
