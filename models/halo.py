"""Finds the halo of a network by experiments on small images: the pixels that it must see around a tile."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.tile import Halo, Tile, with_halo
from utils.cli import tell

ACROSS = 17  # short side of the test images; odd, and large enough for networks that pad their windows
PERIODS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)  # window sizes that are tried: those of known networks
SAME = 1e-4  # tolerance, relative to the largest value, for rounding and the order of sums
FARTHEST = 256  # LR pixels; with a larger halo, tiles would cost more than they save

Probe = Callable[[Tensor], Tensor]


@torch.inference_mode(False)  # with it on, the kernels of models/fast would replace the arithmetic of torch
@torch.no_grad()
def find_halo(network: nn.Module) -> Halo | None:
    """The halo of a network's tiles; None, and a line on stderr, if it must see the whole image.

    A network that divides the image into windows or cells computes the same in tiles that begin where its windows
    begin. A network that depends on the position of a pixel, or on the size of the image, has no such tiles. The
    search takes up to some seconds.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    try:
        far = reach(network)
        halos = [] if far is None else [Halo(far + period - 1, period) for period in PERIODS]
        found = next((halo for halo in halos if all(same_in_tiles(probe, halo) for probe in both_ways(network))), None)
    except Exception:  # a network may refuse images of some sizes
        found = None
    if found is None:
        reason = "what it computes depends on the whole image or on where a pixel lies"
        tell(f"this network cannot work in tiles ({reason}): it works on whole images")
    return found


def both_ways(network: nn.Module) -> tuple[Probe, Probe]:
    """The network itself, and the network on images whose two sides are exchanged."""
    return network, lambda image: network(image.transpose(2, 3)).transpose(2, 3)


def reach(network: nn.Module) -> int | None:
    """How far, in LR pixels, an input pixel influences the output of a network; None if farther than FARTHEST.

    NaN spreads through all arithmetic. One NaN pixel therefore shows how far its influence goes.
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
    """Whether tiles that see only their halo get the same values as in the whole image.

    The test uses a tile in the middle, with all places in a period, and a tile at either end, where a network may read
    pixels of the other end.
    """
    far, period = halo
    start, tile_width = far + period, -2 * far % period + 4 * period  # the halo then ends where a period ends
    stop = start + tile_width
    image = noise(stop + far + period + 1)  # its length is not a multiple of the period
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
