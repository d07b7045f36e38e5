"""Training crops: random HR patches with flips, as uint8; the LR patch is made from them on the device."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.config import DataSpec
from utils.errors import InputError
from utils.files import list_images
from utils.image import read_image


class CropDataset(Dataset[Tensor]):
    """Sample `position` of an endless sequence: a (3,P,P) uint8 crop, P = patch_size * scale.

    What a position holds depends on the seed and the position alone, so that a resumed run, any number of processes
    and any number of workers see the same samples. Every image comes once per epoch.
    """

    def __init__(self, spec: DataSpec, seed: int) -> None:
        self.paths = list_images(spec.train)
        self.size = spec.patch_size * spec.scale
        self.seed = seed
        self.cache: dict[int, NDArray[np.uint8]] = {}
        self.cache_left = spec.cache_gb * 1e9  # bytes
        self.order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> Tensor:
        epoch, place = divmod(position, len(self.paths))
        if self.order[0] != epoch:
            self.order = (epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.paths)))
        image = self.image(int(self.order[1][place]))
        rng = np.random.default_rng((self.seed, 1, position))
        top, left = (int(rng.integers(size - self.size + 1)) for size in image.shape[:2])
        return torch.from_numpy(flip(image[top : top + self.size, left : left + self.size], rng))

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self.cache:
            return self.cache[index]
        path = self.paths[index]
        decoded = read_image(path)
        if decoded.bits != 8:
            raise InputError(f"{path}: training images must have 8 bits per channel")
        pixels: NDArray[np.uint8] = decoded.pixels.astype(np.uint8, copy=False)
        if min(pixels.shape[:2]) < self.size:
            raise InputError(
                f"{path}: smaller than the {self.size}x{self.size} HR patch; remove it or lower patch_size"
            )
        if self.cache_left >= pixels.nbytes:
            self.cache[index] = pixels
            self.cache_left -= pixels.nbytes
        return pixels


def flip(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One of the eight flips of a square (horizontal, vertical, diagonal); (P,P,3) -> contiguous (3,P,P)."""
    planes = crop.transpose(2, 0, 1)
    horizontal, vertical, diagonal = rng.integers(2, size=3)
    planes = planes[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
    return np.ascontiguousarray(planes.transpose(0, 2, 1) if diagonal else planes)


class StridedSampler(Sampler[int]):
    """Positions of one process: batch i holds [i * batch, (i + 1) * batch), of which each rank takes every n-th."""

    def __init__(self, start: int, stop: int, rank: int, world: int) -> None:
        self.positions = range(start + rank, stop, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def crop_batches(spec: DataSpec, seed: int, start: int, stop: int, rank: int = 0, world: int = 1) -> DataLoader[Tensor]:
    """Batches (b,3,P,P) uint8 of iterations [start, stop), this process' share of each.

    Raises InputError for a missing or empty folder, and if the processes do not divide batch_size.
    """
    if spec.batch_size % world:
        raise InputError(f"data.batch_size: {world} processes do not divide {spec.batch_size}")
    return DataLoader(
        CropDataset(spec, seed),
        batch_size=spec.batch_size // world,
        sampler=StridedSampler(start * spec.batch_size, stop * spec.batch_size, rank, world),
        num_workers=spec.workers,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available(),
    )
