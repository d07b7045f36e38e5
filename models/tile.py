"""Tiles of an image. A network that sees enough pixels around a tile computes there what it computes in the whole."""

from typing import NamedTuple

from torch import Tensor


class Tile(NamedTuple):
    """A rectangle of pixels. A tile of LR pixels also stands for all HR pixels whose nearest LR pixel lies in it."""

    rows: slice
    cols: slice

    def window(self, lr: Tensor, size: tuple[int, int]) -> "Tile":
        """Its HR pixels in an image of `size` = (H,W) over lr (b,3,h,w). If tiles cover LR once, they cover HR once."""
        rows, cols = (slice(*span(n, length, line)) for n, length, line in zip(lr.shape[2:], size, self, strict=True))
        return Tile(rows, cols)

    def grown(self, lr: Tensor, by: int) -> "Tile":
        """The tile with `by` more pixels on all sides, as far as lr (b,3,h,w) has them."""
        rows, cols = (
            slice(max(line.start - by, 0), min(line.stop + by, n)) for line, n in zip(self, lr.shape[2:], strict=True)
        )
        return Tile(rows, cols)

    def aligned(self, lr: Tensor, period: int) -> "Tile":
        """The tile, extended to multiples of `period`, as far as lr (b,3,h,w) has pixels."""
        rows, cols = (
            slice(line.start // period * period, min(-(-line.stop // period) * period, n))
            for line, n in zip(self, lr.shape[2:], strict=True)
        )
        return Tile(rows, cols)

    def within(self, outer: "Tile") -> "Tile":
        """The same tile in coordinates of `outer`, which contains it."""
        return self.moved(-outer.rows.start, -outer.cols.start)

    def out_of(self, outer: "Tile") -> "Tile":
        """The inverse of `within`: a tile in coordinates of `outer`, in those of the image."""
        return self.moved(outer.rows.start, outer.cols.start)

    def moved(self, down: int, right: int) -> "Tile":
        rows, cols = self
        return Tile(slice(rows.start + down, rows.stop + down), slice(cols.start + right, cols.stop + right))

    def times(self, scale: int) -> "Tile":
        """The tile in an image `scale` times as large."""
        rows, cols = (slice(line.start * scale, line.stop * scale) for line in self)
        return Tile(rows, cols)


def whole(image: Tensor) -> Tile:
    """All pixels of an image (b,c,h,w)."""
    return Tile(slice(0, image.shape[2]), slice(0, image.shape[3]))


class Halo(NamedTuple):
    """The pixels that a network must see around a tile to compute there what it computes in the whole image."""

    pixels: int  # LR pixels on each side
    # size of the network's windows: the tile with its halo begins and ends at a multiple of it, or at the image border
    period: int = 1

    @property
    def farthest(self) -> int:
        """The most pixels on a side, as the halo is widened to a multiple of the period."""
        return self.pixels + self.period - 1


def with_halo(lr: Tensor, tile: Tile, halo: Halo | None) -> tuple[Tensor, Tile]:
    """A tile of lr (b,3,h,w) with its halo (None: the whole image), and the position of the tile in the result."""
    if halo is None:
        return lr, tile
    seen = tile.grown(lr, halo.pixels).aligned(lr, halo.period)
    return lr[..., seen.rows, seen.cols], tile.within(seen)


def span(n: int, size: int, stretch: slice) -> tuple[int, int]:
    """The half-open range of `size` HR positions whose nearest of `n` LR pixels lies in `stretch`."""
    first, stop = (max(0, -(-(2 * size * pixel + 1 - n) // (2 * n))) for pixel in (stretch.start, stretch.stop))
    return first, stop
