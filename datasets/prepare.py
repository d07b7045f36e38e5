"""Making data sets: every image of a folder becomes other images, on all cores, one image per worker at a time.

Files that exist are kept, so that an interrupted command goes on where it stopped. To use other options, delete them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.degrade import Degradation, after_shrinking, blurred, degradation_of
from datasets.folder import fitting_size, lr_size, mod_crop
from utils.cli import say, tell
from utils.config import DegradeSpec
from utils.decode import is_whole, read_image, stored_size
from utils.encode import write_image
from utils.errors import InputError
from utils.files import list_images
from utils.image import Array, to_pixels, to_tensor
from utils.jobs import Job, check_outputs, run_jobs
from utils.patches import starts
from utils.resize import downscale, imresize, imresize_matlab_uint8

OTHER_STEP = "another size or step has made it; give another output folder, or delete it"
Files = Iterable[tuple[Path, Array]]  # a path, and the image to write there: (H,W,3) uint8 or uint16


class Recipe(NamedTuple):
    """The images that are made from one image; it is done if all of `outputs` exist."""

    source: Path
    outputs: Sequence[Path]
    make: Callable[[Array], Files]  # a module's function with its options, because workers must find it by name


def data_augmentation(source: Path, output: Path, scales: Sequence[float], min_size: int, workers: int) -> None:
    """Every image at every scale in (0,1], by antialiased bicubic, as NAME_s0.9.png.

    A copy of less than `min_size` pixels on a side, which is too small for a training crop, is left out.
    As all commands here, it raises InputError for a bad option or folder, and at the end if an image failed.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):  # nan fails every comparison
        raise InputError("scales must be over 0 and at most 1")
    if min_size < 1:
        raise InputError("min_size must be at least 1")
    recipes, left_out = [], 0
    for path in images_of(source):
        side = min(stored_size(path))  # 0 if unreadable; the error is raised when the image is read
        fitting = [scale for scale in scales if not side or round(side * scale) >= min_size]
        targets = {output / f"{path.stem}_s{scale:g}.png": scale for scale in fitting}
        left_out += len(scales) - len(fitting)
        if targets:
            recipes.append(Recipe(path, [*targets], partial(augment, targets=targets)))
    if left_out:
        say(f"{left_out} images are left out: they would have a side under {min_size} pixels")
    make_all(recipes, source, [output], workers)


def extract_subimages(source: Path, output: Path, size: int, step: int, remainder: int, workers: int) -> None:
    """Every image cut into size x size sub-images, as NAME_s001.png, row by row."""
    if size < 1 or step < 1 or remainder < 0:
        raise InputError("size and step must be at least 1, remainder at least 0")
    recipes = []
    for path in images_of(source):
        corners = corners_of(stored_size(path), size, step, remainder)  # of a photograph on its side as many
        *targets, further = [output / f"{path.stem}_s{number:03d}.png" for number in range(1, len(corners) + 2)]
        check_earlier(targets[0], (size, size), f"size {size}")
        if further.exists():
            raise InputError(f"{further}: {OTHER_STEP}")
        make = partial(subimages, source=path, targets=targets, size=size, step=step, remainder=remainder)
        recipes.append(Recipe(path, targets, make))
    make_all(recipes, source, [output], workers)


def generate_mod_lr_bic(
    source: Path,
    output: Path,
    mod_output: Path | None,
    scale: float,
    matlab_uint8: bool,
    workers: int,
    degrade: DegradeSpec | None = None,
) -> None:
    """The LR image of every HR image under the same name, degraded with `degrade`; with `mod_output` also cut HR."""
    if not (1 <= scale < math.inf):
        raise InputError("scale must be a number of at least 1")
    recipes = []
    for path in images_of(source):
        hr, lr = mod_output and mod_output / f"{path.stem}.png", output / f"{path.stem}.png"
        size = stored_size(path)  # 0 if unreadable, which is reported later
        check_earlier(lr, lr_size(size, scale), f"scale {scale:g}")
        if hr:
            check_earlier(hr, fitting_size(size, scale), f"scale {scale:g}")
        how = degradation_of(degrade, path.stem) if degrade else Degradation()
        make = partial(make_pair, hr=hr, lr=lr, source=path, scale=scale, matlab_uint8=matlab_uint8, degradation=how)
        recipes.append(Recipe(path, [hr, lr] if hr else [lr], make))
    make_all(recipes, source, [output, mod_output] if mod_output else [output], workers)


def check_earlier(output: Path, expected: tuple[int, int], option: str) -> None:
    """Raises InputError if the image exists in another size, which another value of the option has made."""
    found = stored_size(output)
    if 0 in (*expected, *found) or sorted(found) == sorted(expected):  # sorted: a photograph may lie on its side
        return
    raise InputError(
        f"{output}: is {found[0]}x{found[1]}, but {option} makes {expected[0]}x{expected[1]}; "
        "give another output folder, or delete what is there"
    )


def augment(pixels: Array, targets: Mapping[Path, float]) -> Files:
    for path, scale in targets.items():
        yield path, shrink(pixels, (round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)))


def subimages(pixels: Array, source: Path, targets: Sequence[Path], size: int, step: int, remainder: int) -> Files:
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise InputError(f"{source}: {width}x{height} pixels are too few for a {size}x{size} sub-image")
    corners = corners_of((height, width), size, step, remainder)
    crops = {path: pixels[y : y + size, x : x + size] for path, (y, x) in zip(targets, corners, strict=True)}
    for path in [path for path in targets if path.exists()][-1:]:  # of an earlier command, which was interrupted
        if not np.array_equal(read_image(path).pixels, crops[path]):
            raise InputError(f"{path}: {OTHER_STEP}")
    yield from crops.items()


def corners_of(sides: tuple[int, int], size: int, step: int, remainder: int) -> list[tuple[int, int]]:
    """The top left corners of the sub-images of an image, row by row."""
    height, width = sides
    return list(product(starts(height, size, step, remainder), starts(width, size, step, remainder)))


def images_of(folder: Path) -> list[Path]:
    """The images directly in a folder; a note says if there are subfolders with more."""
    paths = list_images(folder)
    below = len(list_images(folder, below=True)) - len(paths)
    if below:
        tell(f"note: {folder}: {below} images in subfolders are left out; name each subfolder as an input of its own")
    return paths


def make_pair(
    pixels: Array,
    hr: Path | None,
    lr: Path,
    source: Path,
    scale: float,
    matlab_uint8: bool = False,
    degradation: Degradation = Degradation(),  # noqa: B008 - it cannot be changed
) -> Files:
    """HR cut to fit the scale, if its path is given, and LR as the evaluation makes it: 8 bits, even if HR has 16."""
    fitting = crop_to_fit(pixels, scale, source)
    if matlab_uint8 and fitting.dtype != np.uint8:
        raise InputError(f"{source}: 16 bits per channel; matlab_uint8 takes 8")
    if hr:
        yield hr, fitting
    if degradation.blur:
        fitting = blurred(to_pixels(to_tensor(fitting)), degradation.blur)
    if matlab_uint8:
        size = (round(fitting.shape[0] / scale), round(fitting.shape[1] / scale))
        small = by_channel(fitting, lambda plane: imresize_matlab_uint8(torch.from_numpy(plane), size).numpy())
    else:
        small = by_channel(fitting, lambda plane: to_pixels(downscale(to_tensor(plane), scale)))
    yield lr, after_shrinking(small, degradation)


def shrink(pixels: Array, size: tuple[int, int]) -> Array:
    """Antialiased bicubic in float64, rounded half up to the input's bits."""
    if size == pixels.shape[:2]:
        return pixels
    peak = np.iinfo(pixels.dtype).max

    def resized(plane: Array) -> Array:
        levels = imresize(torch.from_numpy(plane.astype(np.float64)), size)
        return (levels + 0.5).floor().clamp(0, peak).numpy().astype(pixels.dtype)

    return by_channel(pixels, resized)


def by_channel(pixels: Array, resized: Callable[[Array], Array]) -> Array:
    """Resize each channel (H,W) of (H,W,3) on its own, because an 8K image in float64 takes 800 MB."""
    return np.stack([resized(plane) for plane in np.moveaxis(pixels, 2, 0)], axis=2)


def crop_to_fit(pixels: Array, scale: float, source: Path) -> Array:
    """Cut at the right and bottom so that LR has whole pixels. Raises InputError if LR would be too small."""
    return mod_crop(torch.from_numpy(pixels).permute(2, 0, 1), scale, source).permute(1, 2, 0).numpy()


def make_all(
    recipes: Sequence[Recipe], source: Path, folders: Sequence[Path], workers: int, verify: bool = False
) -> None:
    """Make all files that are missing; with `verify`, damaged files count as missing and are made again.

    Raises InputError if folders are the same or two images would get one name, and at the end if any image failed.
    """
    if workers < 1:
        raise InputError("workers must be at least 1")
    if len({folder.resolve() for folder in (source, *folders)}) <= len(folders):
        raise InputError(f"{source}: input and output folders must differ from each other")
    there = is_whole if verify else has_content
    jobs = [Job(each.source, each.outputs, partial(make_missing, each, there)) for each in recipes]
    check_outputs(jobs)
    # no worker is started for images whose files all exist; but verifying takes time, so workers do it
    outcome = run_jobs([job for job in jobs if verify or not all(map(there, job.outputs))], workers)
    outcome.check()
    kept = len(jobs) - len(outcome.made)
    how = " and stay as they are; delete them to make them with other options" if kept else ""
    say(f"{folders[0]}: {len(outcome.made)} images done, {kept} were done already{how}")


def has_content(path: Path) -> bool:
    """Whether a file is there and not empty, as a power cut may leave it."""
    return path.exists() and path.stat().st_size > 0


def make_missing(recipe: Recipe, there: Callable[[Path], bool]) -> bool:
    """Write the missing files of one image. Returns whether any was missing."""
    if all(map(there, recipe.outputs)):
        return False
    for path, pixels in recipe.make(read_image(recipe.source).pixels):
        if not there(path):
            write_image(path, pixels)
    return True
