"""Training crops: random HR patches with flips, as uint8; and, if LR is read, LR patches of the same places."""

import json
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.cache import Caches
from datasets.degrade import Degradation, draw_degradations
from datasets.folder import check_sides
from datasets.pairs import doubts
from datasets.pool import Integers, Pool, lr_numbers
from utils.config import DataSpec
from utils.errors import InputError


class Crops:
    """The batches of a training run: random crops, flipped at random; every image is used once per epoch.

    The batch of an iteration and its scale depend on the seed and the iteration alone, so that a resumed run and any
    number of processes see the same samples. Raises InputError if the processes do not divide batch_size, for an
    image that is smaller than a crop, and for an HR image whose LR image is missing or has another size.
    """

    def __init__(
        self, caches: Caches, spec: DataSpec, seed: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        if spec.batch_size % world:
            raise InputError(f"data.batch_size: {world} processes do not divide {spec.batch_size}")
        self.patch_size, self.scales, self.top_share = spec.patch_size, spec.scales, spec.top_share
        self.hr = Pool(caches.hr, device)
        self.doubts: list[str] = []  # about the pairing with LR images; in rank 0
        self.lr: Pool | None = None  # the LR image of each HR image, if they are read from files
        if caches.lr:
            self.lr = Pool(caches.lr, device, lr_numbers(caches))
            self.check_pairs(self.lr)
            if rank == 0:
                self.doubts = self.pairs_in_doubt(self.lr)
        if self.lr is None:
            images, kind, largest = self.hr, "HR", round(self.patch_size * self.scales[1])
        else:
            images, kind, largest = self.lr, "LR", self.patch_size
        small = np.minimum(images.height, images.width) < largest
        if small.any():
            raise InputError(
                f"{images.paths[int(small.argmax())]}: smaller than the {largest}x{largest} {kind} patch; remove it or "
                "lower patch_size"
            )
        self.degrade = spec.degrade
        self.total = spec.batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self.orders: dict[int, NDArray[np.int64]] = {}  # the order of the images in each epoch that is in use

    def check_pairs(self, lr: Pool) -> None:
        hr = self.hr
        for number, (path, lr_path) in enumerate(zip(hr.paths, lr.paths, strict=True)):
            of_hr, of_lr = ((int(pool.height[number]), int(pool.width[number])) for pool in (hr, lr))
            check_sides(of_hr, of_lr, self.scales[1], path, lr_path)

    def pairs_in_doubt(self, lr: Pool) -> list[str]:
        files = list(zip(self.hr.paths, lr.paths, strict=True))
        return doubts(files, lambda number: (self.hr.image(number), lr.image(number)), round(self.scales[1]))

    def batch(self, iteration: int) -> Tensor:
        """This process' share of an iteration, counted from 1: contiguous (b,3,P,P) uint8, P = hr_side(iteration)."""
        return self.hr.squares(self.strides(iteration)[:, self.rank :: self.world], self.hr_side(iteration))

    def lr_batch(self, iteration: int) -> Tensor | None:
        """The LR patches of the same samples, (b,3,p,p) uint8; None if LR is made from HR."""
        if self.lr is None:
            return None
        strides = self.lr.strides(*self.places(iteration), self.patch_size)
        return self.lr.squares(strides[:, self.rank :: self.world], self.patch_size)

    def degradations(self, iteration: int) -> list[Degradation]:
        """The degradation of each LR patch in this process' share; empty if there is none."""
        if self.degrade is None:
            return []
        rng = np.random.Generator(np.random.Philox((self.seed, 3, iteration)))
        return draw_degradations(self.degrade, rng, self.total)[self.rank :: self.world]

    def hr_side(self, iteration: int) -> int:
        """The side P of the HR patches: patch_size times a scale drawn uniformly from the range, rounded.

        A share of the iterations, top_share, takes the upper end of the range instead. Because of the rounding, the
        scale of the batch is P / patch_size.
        """
        rng = np.random.Generator(np.random.Philox((self.seed, 2, iteration)))
        drawn = rng.uniform(*self.scales)
        return round(self.patch_size * (self.scales[1] if rng.random() < self.top_share else drawn))

    def names(self, iteration: int) -> list[str]:
        """The image files that the samples of all processes were cut from."""
        return [str(self.hr.paths[image]) for image in self.image_numbers(iteration).tolist()]

    def digest(self) -> str:
        """Of the names and sizes of all images, which decide the samples."""
        images = zip(self.hr.paths, self.hr.height.tolist(), self.hr.width.tolist(), strict=True)
        return sha256(json.dumps([(path.name, *size) for path, *size in images]).encode()).hexdigest()

    def strides(self, iteration: int) -> NDArray[np.int64]:
        """Where the samples of all processes lie in HR, (3,B), as Pool.strides says."""
        image, top, left, flips = self.places(iteration)
        factor = round(self.scales[1]) if self.lr else 1  # with LR files the scale is a whole number
        return self.hr.strides(image, factor * top, factor * left, flips, self.hr_side(iteration))

    def places(self, iteration: int) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
        """Image, top, left (B,) and flips (3,B) of the samples of all processes: in LR if it is read, else in HR."""
        images, size = (self.lr, self.patch_size) if self.lr else (self.hr, self.hr_side(iteration))
        image = self.image_numbers(iteration)
        rng = np.random.Generator(np.random.Philox((self.seed, 1, iteration)))
        top = rng.integers(images.height[image] - size + 1)
        left = rng.integers(images.width[image] - size + 1)
        return image, top, left, rng.integers(2, size=(3, len(image))).astype(bool)

    def image_numbers(self, iteration: int) -> NDArray[np.int64]:
        """The images of the samples of all processes, (B,): the next ones in the order of the epoch."""
        last = iteration * self.total
        epoch, place = np.divmod(np.arange(last - self.total, last), len(self.hr))
        self.orders = {number: self.order(number) for number in np.unique(epoch).tolist()}
        return np.array([self.orders[number][at] for number, at in zip(epoch.tolist(), place, strict=True)])

    def order(self, epoch: int) -> NDArray[np.int64]:
        if epoch in self.orders:
            return self.orders[epoch]
        return np.random.Generator(np.random.Philox((self.seed, 0, epoch))).permutation(len(self.hr))
