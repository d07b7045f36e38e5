"""Training crops: random HR patches with flips, as uint8; the LR patch is made from them on the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.cache import Cache
from utils.config import DataSpec
from utils.errors import InputError

COPIED_PIXELS = 2**24  # to the device at a time


class Crops:
    """The batches of a training run, each of random crops that are flipped at random; every image once per epoch.

    What an iteration holds, its scale included, depends on the seed and the iteration alone, so that a resumed run and
    any number of processes see the same samples. Raises InputError if the processes do not divide batch_size, and for
    an image that is smaller than a crop.
    """

    def __init__(
        self, cache: Cache, spec: DataSpec, seed: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        if spec.batch_size % world:
            raise InputError(f"data.batch_size: {world} processes do not divide {spec.batch_size}")
        self.patch_size, self.scales = spec.patch_size, spec.scales
        largest = round(self.patch_size * self.scales[1])
        small = np.minimum(cache.height, cache.width) < largest
        if small.any():
            raise InputError(
                f"{cache.paths[int(small.argmax())]}: smaller than the {largest}x{largest} HR patch; "
                "remove it or lower patch_size"
            )
        self.cache = cache
        self.total = spec.batch_size
        self.seed = seed
        self.device = device
        self.rank, self.world = rank, world
        self.orders: dict[int, NDArray[np.int64]] = {}  # of the images, by epoch
        self.resident = resident(cache.pixels, device)

    def batch(self, iteration: int) -> Tensor:
        """This process' share of an iteration, counted from 1: contiguous (b,3,P,P) uint8, P = size(iteration)."""
        size, steps = self.size(iteration), self.steps(iteration)[:, self.rank :: self.world]
        if self.resident is not None:
            return gather_resident(self.resident, steps, size)
        return gather_mapped(self.cache.pixels, steps, size, self.device)

    def size(self, iteration: int) -> int:
        """HR pixels across the samples of all processes: patch_size at a scale drawn evenly from the range, rounded.

        The scale of the batch is what rounding leaves of it, P / patch_size.
        """
        rng = np.random.Generator(np.random.Philox((self.seed, 2, iteration)))
        return round(self.patch_size * rng.uniform(*self.scales))

    def names(self, iteration: int) -> list[str]:
        """The image files that the samples of all processes were cut from."""
        return [self.cache.paths[image].name for image in self.images(iteration).tolist()]

    def steps(self, iteration: int) -> NDArray[np.int64]:
        """Where the samples of all processes lie, in pixels: (3,B), the first pixel, and from one row and column to the
        next. A flip is no more than other steps."""
        cache, size = self.cache, self.size(iteration)
        image = self.images(iteration)
        rng = np.random.Generator(np.random.Philox((self.seed, 1, iteration)))
        top = rng.integers(cache.height[image] - size + 1)
        left = rng.integers(cache.width[image] - size + 1)
        horizontal, vertical, diagonal = rng.integers(2, size=(3, len(image))).astype(bool)
        width = cache.width[image]
        top, down = np.where(vertical, top + size - 1, top), np.where(vertical, -width, width)
        left, right = np.where(horizontal, left + size - 1, left), np.where(horizontal, -1, 1)
        first = cache.offset[image] + top * width + left
        return np.stack([first, np.where(diagonal, right, down), np.where(diagonal, down, right)])

    def images(self, iteration: int) -> NDArray[np.int64]:
        """Which images the samples of all processes show, (B,): the next ones of the epoch's order."""
        last = iteration * self.total
        epoch, place = np.divmod(np.arange(last - self.total, last), len(self.cache.paths))
        self.orders = {number: self.order(number) for number in np.unique(epoch).tolist()}
        return np.array([self.orders[number][at] for number, at in zip(epoch.tolist(), place, strict=True)])

    def order(self, epoch: int) -> NDArray[np.int64]:
        if epoch in self.orders:
            return self.orders[epoch]
        return np.random.Generator(np.random.Philox((self.seed, 0, epoch))).permutation(len(self.cache.paths))


def resident(pixels: NDArray[np.uint8], device: torch.device) -> Tensor | None:
    """The pixels (N,3) on a CUDA device, if they take no more than half of its free memory."""
    if device.type != "cuda" or pixels.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    target = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), COPIED_PIXELS):
        target[start : start + COPIED_PIXELS] = torch.from_numpy(pixels[start : start + COPIED_PIXELS].copy())
    return target


def gather_resident(pixels: Tensor, steps: NDArray[np.int64], size: int) -> Tensor:
    """Crops (b,3,P,P) from pixels (N,3) on the same device, without waiting for it; steps (3,b)."""
    sent = torch.from_numpy(steps).pin_memory() if pixels.is_cuda else torch.from_numpy(steps)
    first, down, right = sent.to(pixels.device, non_blocking=True)[:, :, None, None]  # (b,1,1) each
    line = torch.arange(size, device=pixels.device)
    index = first + down * line[:, None] + right * line  # (b,P,P)
    return pixels[index].permute(0, 3, 1, 2).contiguous()


def gather_mapped(pixels: NDArray[np.uint8], steps: NDArray[np.int64], size: int, device: torch.device) -> Tensor:
    """Crops (b,3,P,P) on the device from pixels (N,3) in the CPU's memory; steps (3,b)."""
    cuda = device.type == "cuda"
    crops = torch.empty((steps.shape[1], 3, size, size), dtype=torch.uint8, pin_memory=cuda)
    for crop, (first, down, right) in zip(crops.numpy(), steps.T.tolist(), strict=True):
        # a view, and cheaper to copy than to index; numpy refuses one that leaves the file
        crop[:] = np.ndarray((3, size, size), np.uint8, pixels, 3 * first, (1, 3 * down, 3 * right))
    return crops.to(device, non_blocking=cuda)  # pinned memory is used again only when its copy is done
