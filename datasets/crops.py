"""Training crops: random HR patches with flips, as uint8; the LR patch is made from them on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.cache import Cache
from datasets.pool import Pool
from utils.config import DataSpec
from utils.errors import InputError


class Crops:
    """The batches of a training run, each of random crops that are flipped at random; every image once per epoch.

    What an iteration holds, its scale included, depends on the seed and the iteration alone, so that a resumed run and
    any number of processes see the same samples. Raises InputError if the processes do not divide batch_size, and for
    an image that is smaller than a crop.
    """

    def __init__(
        self, caches: Sequence[Cache], spec: DataSpec, seed: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        if spec.batch_size % world:
            raise InputError(f"data.batch_size: {world} processes do not divide {spec.batch_size}")
        self.patch_size, self.scales = spec.patch_size, spec.scales
        self.hr = Pool(caches, device)
        largest = round(self.patch_size * self.scales[1])
        small = np.minimum(self.hr.height, self.hr.width) < largest
        if small.any():
            raise InputError(
                f"{self.hr.paths[int(small.argmax())]}: smaller than the {largest}x{largest} HR patch; "
                "remove it or lower patch_size"
            )
        self.total = spec.batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self.orders: dict[int, NDArray[np.int64]] = {}  # of the images, by epoch

    def batch(self, iteration: int) -> Tensor:
        """This process' share of an iteration, counted from 1: contiguous (b,3,P,P) uint8, P = size(iteration)."""
        return self.hr.squares(self.steps(iteration)[:, self.rank :: self.world], self.size(iteration))

    def size(self, iteration: int) -> int:
        """HR pixels across the samples of all processes: patch_size at a scale drawn evenly from the range, rounded.

        The scale of the batch is what rounding leaves of it, P / patch_size.
        """
        rng = np.random.Generator(np.random.Philox((self.seed, 2, iteration)))
        return round(self.patch_size * rng.uniform(*self.scales))

    def names(self, iteration: int) -> list[str]:
        """The image files that the samples of all processes were cut from."""
        return [self.hr.paths[image].name for image in self.images(iteration).tolist()]

    def steps(self, iteration: int) -> NDArray[np.int64]:
        """Where the samples of all processes lie, (3,B), as Pool.steps says."""
        size = self.size(iteration)
        image = self.images(iteration)
        rng = np.random.Generator(np.random.Philox((self.seed, 1, iteration)))
        top = rng.integers(self.hr.height[image] - size + 1)
        left = rng.integers(self.hr.width[image] - size + 1)
        return self.hr.steps(image, top, left, size, rng.integers(2, size=(3, len(image))).astype(bool))

    def images(self, iteration: int) -> NDArray[np.int64]:
        """Which images the samples of all processes show, (B,): the next ones of the epoch's order."""
        last = iteration * self.total
        epoch, place = np.divmod(np.arange(last - self.total, last), len(self.hr))
        self.orders = {number: self.order(number) for number in np.unique(epoch).tolist()}
        return np.array([self.orders[number][at] for number, at in zip(epoch.tolist(), place, strict=True)])

    def order(self, epoch: int) -> NDArray[np.int64]:
        if epoch in self.orders:
            return self.orders[epoch]
        return np.random.Generator(np.random.Philox((self.seed, 0, epoch))).permutation(len(self.hr))
