"""Finds the image files that a command is given by name, in folders or by patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError, first_few
from utils.files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, is_image, list_images
from utils.metadata import PROGRAM, read_mark

NAMED = 5  # the most names in a message, so that it stays one line


def find_images(given: Sequence[str], out_dir: Path) -> list[Path]:
    """Files as they are named, the images directly in folders, and those that a pattern such as 'in/*.jpg' matches.

    Each once, folders and patterns sorted. Results of earlier runs that lie in `out_dir` are no inputs unless named.
    Raises InputError if a folder has no images or a pattern matches none; a missing file is found when it is read.
    """
    found: dict[str, Path] = {}
    for text in given:
        path = Path(text)
        named = path.is_file() or not (path.is_dir() or glob.has_magic(text))
        for each in [path] if named else without_results(text, out_dir):
            found.setdefault(os.path.abspath(each), each)  # noqa: PTH100 - links are kept, `..` is not
    return list(found.values())


def without_results(text: str, out_dir: Path) -> list[Path]:
    """The images of a folder or pattern, without what an earlier run wrote. Raises InputError if there are none."""
    kept = [path for path in matches(text) if not is_result(path, out_dir)]
    if not kept:
        raise InputError(f"{text}: only results of earlier runs; choose another output folder to upscale them again")
    return kept


def matches(text: str) -> list[Path]:
    """The images in a folder, or those that a pattern matches, sorted. Raises InputError if there are none."""
    if Path(text).is_dir():
        return list_images(text)
    paths = [Path(name) for name in sorted(glob.glob(text))]  # noqa: PTH207 - the pattern may be absolute
    images = [path for path in paths if is_image(path)]
    if not images:
        raise InputError(f"{text}: matches no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def passed_over(given: Sequence[str], out_dir: Path) -> str | None:
    """The files and subfolders that look like pictures but are not upscaled, in words for the user; None if none.

    Results are not among them: neither `out_dir` nor a folder that holds it is named.
    """
    paths = dict.fromkeys(path for text in given if not Path(text).is_file() for path in candidates(text))
    unread = [path for path in paths if path.suffix.lower() in UNREAD_SUFFIXES and path.is_file()]
    others = [path for path in paths if path.is_dir() and not out_dir.resolve().is_relative_to(path.resolve())]
    folders = [path for path in others if any(map(is_image, contents(path)))]
    known = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    nothing = [path for path in known if path not in folders and not path.is_file()]  # a link to nowhere, a pipe
    told = [f"of a kind that is not read: {first_names(unread)}"] if unread else []
    told += [f"in folders within, which are not entered: {first_names(folders)}"] if folders else []
    told += [f"no file: {first_names(nothing)}"] if nothing else []
    return "; ".join(told) or None


def candidates(text: str) -> list[Path]:
    """The files and folders directly in a folder, or those that a pattern matches, without hidden ones."""
    path = Path(text)
    found = contents(path) if path.is_dir() else [Path(name) for name in glob.glob(text)]  # noqa: PTH207 - as above
    return sorted(each for each in found if not each.name.startswith("."))


def contents(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # nobody may look into it
        return []


def first_names(paths: Sequence[Path]) -> str:
    return first_few([path.name for path in paths], NAMED)


def is_result(path: Path, out_dir: Path) -> bool:
    in_place = out_dir.is_dir() and path.parent.samefile(out_dir)
    return in_place and (read_mark(path) or "").startswith(PROGRAM)
