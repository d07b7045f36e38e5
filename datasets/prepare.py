"""Making data sets: every image of a folder becomes other images, on all cores, one image per worker at a time.

What exists is kept, so that an interrupted command goes on where it stopped; to use other options, delete it first.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from datasets.folder import lr_size, mod_crop
from utils.decode import is_whole, read_image, stored_size
from utils.encode import write_image
from utils.errors import InputError, Parser
from utils.files import list_images
from utils.image import Array, to_pixels, to_tensor
from utils.patches import starts
from utils.resize import downscale, imresize, imresize_matlab_uint8

Files = Iterable[tuple[Path, Array]]  # what to write where: (H,W,3) uint8 or uint16


@dataclass(frozen=True)
class Job:
    """What becomes of one image; it is done once all of `outputs` are there."""

    source: Path
    outputs: tuple[Path, ...]
    make: Callable[[Array], Files]  # a function of a module with its options, since workers must find it by name
    verify: bool = False  # what exists but is damaged counts as not there, and is made again

    def has(self, path: Path) -> bool:
        return path.exists() and (not self.verify or is_whole(path))

    def done(self) -> bool:
        return all(map(self.has, self.outputs))


class Outcome(NamedTuple):
    """What came of a job."""

    made: bool  # not if it was done already, or failed
    error: str | None = None  # one line


def data_augmentation(source: Path, output: Path, scales: Sequence[float], min_size: int, workers: int) -> None:
    """Every image at every scale in (0,1], by antialiased bicubic, as NAME_s0.9.png.

    What would be less than `min_size` pixels wide or high, too small for a crop in training, is left out.
    Raises InputError for a bad option or folder and, when all else is done, if an image failed; so do all jobs.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):  # nan fails every comparison
        raise InputError("--scales must be over 0 and at most 1")
    if min_size < 1:
        raise InputError("--min_size must be at least 1")
    jobs, left_out = [], 0
    for path in list_images(source):
        side = min(stored_size(path))  # 0 if unreadable, which is for its job to say
        fitting = [scale for scale in scales if not side or round(side * scale) >= min_size]
        targets = {output / f"{path.stem}_s{scale:g}.png": scale for scale in fitting}
        left_out += len(scales) - len(fitting)
        if targets:
            jobs.append(Job(path, tuple(targets), partial(augment, targets=targets)))
    if left_out:
        print(f"{left_out} images are left out: they would have a side under {min_size} pixels")
    process_all(jobs, source, [output], workers)


def extract_subimages(source: Path, output: Path, size: int, step: int, remainder: int, workers: int) -> None:
    """Every image cut into size x size sub-images, as NAME_s001.png, row by row."""
    if size < 1 or step < 1 or remainder < 0:
        raise InputError("--size and --step must be at least 1, --remainder at least 0")
    make = partial(cut, size=size, step=step, remainder=remainder)
    targets = {path: output / f"{path.stem}_s" for path in list_images(source)}
    jobs = [Job(path, (Path(f"{target}001.png"),), partial(make, target=target)) for path, target in targets.items()]
    process_all(jobs, source, [output], workers)


def generate_mod_lr_bic(
    source: Path, output: Path, mod_output: Path | None, scale: float, matlab_uint8: bool, workers: int
) -> None:
    """The LR image of every HR image under the same name, and if asked the HR image cut to fit it."""
    if not (1 <= scale < math.inf):
        raise InputError("--scale must be a number of at least 1")
    jobs = []
    for path in list_images(source):
        hr, lr = mod_output and mod_output / f"{path.stem}.png", output / f"{path.stem}.png"
        check_scale(path, lr, scale)
        make = partial(make_pair, hr=hr, lr=lr, source=path, scale=scale, matlab_uint8=matlab_uint8)
        jobs.append(Job(path, (hr, lr) if hr else (lr,), make))
    process_all(jobs, source, [output, mod_output] if mod_output else [output], workers)


def check_scale(hr: Path, lr: Path, scale: float) -> None:
    """Raises InputError if the LR image is there already and of another scale; what is unreadable is left to others."""
    size, found = stored_size(hr), stored_size(lr)
    expected = lr_size(size, scale)
    if 0 in (*size, *found) or sorted(found) == sorted(expected):  # sorted: a photograph may lie on its side
        return
    raise InputError(
        f"{lr}: is {found[0]}x{found[1]}, but --scale {scale:g} makes {expected[0]}x{expected[1]} of {hr}; "
        "give another --output, or delete what is there"
    )


def augment(pixels: Array, targets: Mapping[Path, float]) -> Files:
    for path, scale in targets.items():
        yield path, shrink(pixels, (round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)))


def cut(pixels: Array, target: Path, size: int, step: int, remainder: int) -> Files:
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise InputError(f"{width}x{height} pixels are too few for a {size}x{size} sub-image")
    corners = list(product(starts(height, size, step, remainder), starts(width, size, step, remainder)))
    for number in range(len(corners), 0, -1):  # the first comes last: where it exists the others do
        top, left = corners[number - 1]
        yield Path(f"{target}{number:03d}.png"), pixels[top : top + size, left : left + size]


def make_pair(pixels: Array, hr: Path | None, lr: Path, source: Path, scale: float, matlab_uint8: bool) -> Files:
    fitting = crop_to_fit(pixels, scale, source)
    if hr:
        yield hr, fitting
    yield lr, low_resolution(fitting, scale, matlab_uint8)


def shrink(pixels: Array, size: tuple[int, int]) -> Array:
    """Antialiased bicubic in float, rounded half up to the input's bits; by channel, for 8K in float64 takes 800 MB."""
    if size == pixels.shape[:2]:
        return pixels
    planes = []
    for plane in np.moveaxis(pixels, 2, 0):
        levels = imresize(torch.from_numpy(plane.astype(np.float64)), size)
        planes.append((levels + 0.5).floor().clamp(0, np.iinfo(pixels.dtype).max).numpy().astype(pixels.dtype))
    return np.stack(planes, axis=2)


def low_resolution(hr: Array, scale: float, matlab_uint8: bool = False) -> Array:
    """The LR image of the evaluation, 8 bit whatever HR has. Raises InputError for 16 bits in MATLAB's uint8 way."""
    if matlab_uint8 and hr.dtype != np.uint8:
        raise InputError("16 bits per channel; --matlab_uint8 takes 8")
    size = (round(hr.shape[0] / scale), round(hr.shape[1] / scale))
    planes = np.moveaxis(hr, 2, 0)
    if matlab_uint8:
        lr = [imresize_matlab_uint8(torch.from_numpy(plane), size).numpy() for plane in planes]
    else:
        lr = [to_pixels(downscale(to_tensor(plane), scale, dtype=torch.float64)) for plane in planes]
    return np.stack(lr, axis=2)


def crop_to_fit(pixels: Array, scale: float, source: Path) -> Array:
    """Cut at the left/top so that LR has whole pixels. Raises InputError, naming the source, if none is left."""
    return mod_crop(torch.from_numpy(pixels).permute(2, 0, 1), scale, source).permute(1, 2, 0).numpy()


def process_all(jobs: Sequence[Job], source: Path, folders: Sequence[Path], workers: int) -> None:
    """Do what is not done yet; an image that fails costs one line on stderr and the others go on.

    Raises InputError if folders are the same or two images want one name, and at the end if any image failed.
    """
    if workers < 1:
        raise InputError("--workers must be at least 1")
    if len({folder.resolve() for folder in (source, *folders)}) <= len(folders):
        raise InputError(f"{source}: input and output folders must differ from each other")
    owners: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            if owners.setdefault(path, job.source) != job.source:
                raise InputError(f"{owners[path]} and {job.source.name} would both become {path.name}; rename one")
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    todo = [job for job in jobs if job.verify or not job.done()]  # to verify takes time, and belongs to the work
    made = failed = 0
    for outcome in tqdm(outcomes(todo, workers), total=len(todo), unit="image", disable=None):
        made += outcome.made
        if outcome.error:
            failed += 1
            tqdm.write(f"error: {outcome.error}", file=sys.stderr)
    if failed:
        raise InputError(f"{failed} of {len(jobs)} images failed; the others are done")
    print(f"{folders[0]}: {made} images done, {len(jobs) - made} were done already")


def outcomes(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """Each job's outcome, in order."""
    if workers == 1 or len(jobs) < 2:
        yield from map(attempt, jobs)
        return
    # spawn: a fork would inherit torch's threads in an unknown state
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), start_worker) as pool:
            yield from pool.map(attempt, jobs)
    except BrokenProcessPool:
        raise InputError("a worker was killed, likely for want of memory; give fewer --workers") from None


def start_worker() -> None:
    torch.set_num_threads(1)  # one image per core is faster than all cores on one image
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent stops, a worker finishes its image


def attempt(job: Job) -> Outcome:
    """Do a job, unless it is done; an error is a line that names the image."""
    try:
        if job.done():
            return Outcome(made=False)
        for path, pixels in job.make(read_image(job.source).pixels):
            if not job.has(path):
                write_image(path, pixels)
    except Exception as error:  # a decoder can raise anything on a bad file, and a thousand others wait
        message = " ".join(str(error).split()) or type(error).__name__
        return Outcome(False, message if str(job.source) in message else f"{job.source}: {message}")
    return Outcome(made=True)


def folders_parser(description: str, source: str, output: str) -> Parser:
    """A parser with the options all jobs share; `source` and `output` say what the folders hold."""
    parser = Parser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = f"{description} Images that exist in the output are kept."
    required = partial(parser.add_argument, type=Path, required=True, default=argparse.SUPPRESS, metavar="DIR")
    required("--input", help=source)
    required("--output", help=output)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="images done at a time")
    return parser
