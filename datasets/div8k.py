"""Test2K, Test4K and Test8K: the x4 test sets that are made from DIV8K."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from datasets.prepare import Files, Recipe, crop_to_fit, make_all, make_pair, shrink
from utils.errors import InputError
from utils.files import list_images
from utils.image import Array

TEST_SCALE = 4
TEST_SETS: Mapping[str, tuple[range, int]] = {  # numbers of DIV8K images, and the factor by which they are shrunk to HR
    "Test2K": (range(1201, 1301), 4),
    "Test4K": (range(1301, 1401), 2),
    "Test8K": (range(1401, 1501), 1),
}
SHOWN_RUNS = 5  # runs of numbers in a message


def make_test_sets(source: Path, output: Path, sets: Sequence[str], workers: int) -> None:
    """Test2K, Test4K and Test8K from a folder of DIV8K images, whose names are numbers: output/Test2K/{HR,LR}.

    Each worker holds one image at a time. Files that exist are kept, except damaged ones, which are made again. Raises
    InputError naming the images that are missing, before anything is written; and at the end if an image failed.
    """
    if not sets or not set(sets) <= set(TEST_SETS):
        raise InputError(f"sets must be some of {' '.join(TEST_SETS)}")
    paths: dict[int, list[Path]] = {}
    for path in list_images(source):
        if re.fullmatch("[0-9]+", path.stem):
            paths.setdefault(int(path.stem), []).append(path)
    wanted = {number: name for name in sets for number in TEST_SETS[name][0]}
    if missing := sorted(wanted.keys() - paths.keys()):
        count = f"{len(missing)} of {len(wanted)} images are missing"
        raise InputError(f"{source}: {count}: {compact(missing)}; nothing was written")
    if doubled := sorted(number for number in wanted if len(paths[number]) > 1):
        raise InputError(f"{source}: more than one file for images {compact(doubled)}; nothing was written")
    recipes = []
    for number, name in wanted.items():
        path, factor = paths[number][0], TEST_SETS[name][1]
        hr, lr = (output / name / kind / f"{path.stem}.png" for kind in ("HR", "LR"))
        make = partial(make_test_pair, hr=hr, lr=lr, source=path, factor=factor)
        recipes.append(Recipe(path, [hr, lr], make))
    folders = [output, *(output / name / kind for name in set(sets) for kind in ("HR", "LR"))]
    make_all(recipes, source, folders, workers, verify=True)


def make_test_pair(pixels: Array, hr: Path, lr: Path, source: Path, factor: int) -> Files:
    exact = crop_to_fit(pixels, factor, source)  # otherwise the pixel grid would shrink by a slightly different factor
    small = shrink(exact, (exact.shape[0] // factor, exact.shape[1] // factor))
    yield from make_pair(small, hr, lr, source, TEST_SCALE)


def compact(numbers: Sequence[int]) -> str:
    """Ascending numbers as ranges, the first few: 1201-1204, 1300."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    named = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(named[:SHOWN_RUNS] + ["..."] * (len(named) > SHOWN_RUNS))
