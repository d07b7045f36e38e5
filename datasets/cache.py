"""The images of a training folder, decoded once: a file of their pixels, mapped into memory and shared by processes.

data/train.cache/pixels-0123456789abcdef.bin   RGB uint8, image after image, row by row
data/train.cache/index.json                    the names of the images, and the place of each

The name of the file of pixels is made from the images: a process that still maps old pixels never meets new ones, and
processes that build the same cache at the same time do no harm, because they write the same. Old pixels are kept for a
week after a training last opened them, because on a network disk another machine may still map them, and would be
killed if they were gone.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from utils.cli import say
from utils.config import DataSpec, listed
from utils.decode import read_image
from utils.errors import InputError
from utils.files import check_separate, list_images, replacing

INDEX = "index.json"
OURS = '{"pcsr_cache": '  # the beginning of an index of ours; another file of this name is left alone
VERSION = 1  # of these files; a cache of another version is built anew
DIGITS = 16  # of the hash in a name: enough for two hashes never to be equal
PIXELS = f"pixels-{'[0-9a-f]' * DIGITS}.bin"
OLD = 7 * 86400.0  # seconds since pixels were last opened; later they may be deleted
ABANDONED = 3600.0  # seconds: a temporary file that was not written to for so long is left from a killed process


class Source(NamedTuple):
    """An image file as it was when it was decoded; for a link, the file that it points to."""

    name: str  # its path in the folder
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Cache:
    """The decoded images of a folder and its subfolders, in the order of their names."""

    folder: Path
    paths: Sequence[Path]
    offset: NDArray[np.int64]  # the number of each image's first pixel
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    pixels: NDArray[np.uint8]  # (pixels of all images, 3) RGB, mapped and read-only


def open_cache(folder: str | Path, cache_dir: str | Path | None = None) -> Cache:
    """Map the cache of a folder. It is built if it is missing, or if an image was added, removed or changed.

    It lies beside the folder, as `<folder>.cache`, or in a folder of its own in `cache_dir`. Raises InputError for
    a missing or empty folder, an image that is damaged or has more than 8 bits per channel, and a place that cannot be
    written or where something else has an index.json.
    """
    folder = Path(folder)
    paths = list_images(folder, below=True)
    sources = [source_of(path, folder) for path in paths]
    place = cache_place(folder, cache_dir)
    cache = read_cache(place, folder, paths, sources)
    if cache is None:
        build_cache(place, paths, sources)
        cache = read_cache(place, folder, paths, sources)
    if cache is None:
        raise InputError(f"{place}: another process put a cache of other images there; start again")
    return cache


class Caches(NamedTuple):
    """The caches of the training folders: of HR and, if LR is read from files, as many of LR."""

    hr: list[Cache]
    lr: list[Cache]


def open_caches(spec: DataSpec) -> Caches:
    """Raises InputError as open_cache does, and for folders in each other."""
    hr, lr = listed(spec.train), listed(spec.train_lr)
    check_separate([*hr, *lr])
    return Caches(*([open_cache(folder, spec.cache_dir) for folder in folders] for folders in (hr, lr)))


def source_of(path: Path, folder: Path) -> Source:
    try:
        stat = path.stat()
    except OSError as error:  # such as a link to a disk that is not there
        raise InputError(f"{path}: {error.strerror}") from None
    return Source(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)


def cache_place(folder: Path, cache_dir: str | Path | None) -> Path:
    """The cache's own folder; in `cache_dir`, those of folders with the same name differ."""
    root = folder.absolute()  # not resolved: the cache of a link to a folder lies beside the link
    if root.name == "..":
        root = root.resolve()
    if cache_dir is None:
        return root.parent / f"{root.name}.cache"
    return Path(cache_dir) / f"{root.name}-{digest(str(root))[:8]}.cache"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]


def pixels_name(sources: Sequence[Source]) -> str:
    return f"pixels-{digest(json.dumps([VERSION, *sources]))}.bin"


def read_cache(place: Path, folder: Path, paths: Sequence[Path], sources: Sequence[Source]) -> Cache | None:
    """The cache in a place, or None if it is not there, damaged, or of other images. Raises InputError as above."""
    index = place / INDEX
    try:
        text = index.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {index}: {error.strerror}; set data.cache_dir to another place") from None
    if not OURS.startswith(text[: len(OURS)]):  # an empty or truncated index is one of ours that a crash left
        raise InputError(f"{index}: was made by something else; set data.cache_dir to another place")
    try:
        content = json.loads(text)
        images = content["images"]
        if content["pcsr_cache"] != VERSION or content["pixels"] != pixels_name(sources):
            return None
        if [Source(image["name"], image["size"], image["mtime_ns"]) for image in images] != sources:
            return None
        offset, height, width = (
            np.array([image[key] for image in images], np.int64) for key in ("offset", "height", "width")
        )
        ends = np.cumsum(height * width)
        pixels = place / content["pixels"]
        if pixels.stat().st_size != 3 * ends[-1] or not np.array_equal(offset, ends - height * width):
            return None
        # not copy-on-write, which is refused for a file larger than the memory
        mapped = np.memmap(pixels, np.uint8, "r").reshape(-1, 3)
        with suppress(OSError):  # a disk that is read-only
            os.utime(pixels, (time.time(), pixels.stat().st_mtime))  # see tidy
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Cache(folder, paths, offset, height, width, np.asarray(mapped))


def build_cache(place: Path, paths: Sequence[Path], sources: Sequence[Source]) -> None:
    """Decode the images, one in memory at a time. If this fails, it leaves no files."""
    made = not place.exists()
    say(f"decoding {len(paths)} images into {place}")
    try:
        images = write_pixels(place, paths, sources)
        content = {"pcsr_cache": VERSION, "pixels": pixels_name(sources), "images": images}
        with replacing(place / INDEX) as file:  # last, so that it never speaks of pixels that are not there
            file.write(json.dumps(content).encode())
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}; set data.cache_dir to another place") from None
    finally:
        if made:
            with suppress(OSError):  # it is not empty, which is the usual case
                place.rmdir()
    tidy(place, pixels_name(sources))


def write_pixels(place: Path, paths: Sequence[Path], sources: Sequence[Source]) -> list[dict[str, str | int]]:
    """Write the file of pixels; returns the index of its images. Raises OSError, and InputError for an image."""
    images: list[dict[str, str | int]] = []
    offset = 0
    with replacing(place / pixels_name(sources)) as file, tqdm(paths, unit="image", disable=None) as bar:
        for path, source in zip(bar, sources, strict=True):
            array = decode_8_bits(path)
            file.write(array.data)
            height, width = array.shape[:2]
            images.append({**source._asdict(), "offset": offset, "height": height, "width": width})
            offset += height * width
    return images


def decode_8_bits(path: Path) -> NDArray[np.uint8]:
    """(H,W,3) RGB. Raises InputError for an image that is damaged or has more than 8 bits per channel."""
    image = read_image(path)
    if image.bits != 8:
        raise InputError(f"{path}: training images must have 8 bits per channel")
    return image.pixels.astype(np.uint8, copy=False)


def tidy(place: Path, current: str) -> None:
    """Delete the pixels of earlier images that are no longer used, and files that killed processes have left."""
    old = [path for path in place.glob(PIXELS) if path.name != current]
    left = [*place.glob(f".{PIXELS}.*"), *place.glob(f".{INDEX}.*")]
    for path, seconds in (*((path, OLD) for path in old), *((path, ABANDONED) for path in left)):
        with suppress(OSError):  # another builder was faster, or may yet need it
            last = path.stat()
            if time.time() - max(last.st_atime, last.st_mtime) > seconds:
                path.unlink()
