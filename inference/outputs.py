"""Which files results are written to, and whether such a file is there already or may be replaced.

Each result carries a mark in its EXIF block: the program, model and settings for people, then a digest of the input
file's content and of everything that decides the result, then a digest of the input's path. A file is up to date if its
mark has the first digest in common with the wanted one; if only the second, it is made again; any other file stays.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from utils.errors import InputError
from utils.files import caseless
from utils.metadata import PROGRAM, read_mark

ASSIGNED = "_assignment"  # what the name of an assignment adds to that of its image
Identity = tuple[int, int]  # device and inode of a file, the same for all links to it


class Target(NamedTuple):
    """Where one setting's result of an image goes."""

    setting: str
    picture: Path
    overlay: Path | None  # the picture under the colours of the assignment, if it is asked for

    def files(self) -> list[Path]:
        return [self.picture] if self.overlay is None else [self.picture, self.overlay]


@dataclass(frozen=True)
class OutputFiles:
    """How results are named and written: STEM SUFFIX [_SETTING] [_assignment] KIND."""

    folder: Path
    suffix: str
    kind: str  # .png, .jpg, .webp or .tif
    quality: int | None  # for JPEG and WebP
    overlays: bool
    opacity: float  # of the colours in overlays
    overwrite: bool

    def targets(self, sources: Sequence[Path], settings: Sequence[str]) -> list[list[Target]]:
        """A target per setting for each source.

        Where the names of sources differ only in their suffix (a.png, a.jpg), the target's name contains the suffix.
        """
        stems = Counter(caseless(source.stem) for source in sources)
        made = []
        for source in sources:
            alone = stems[caseless(source.stem)] == 1
            stem = (source.stem if alone else f"{source.stem}_{source.suffix[1:]}") + self.suffix
            made.append([self.target(f"{stem}_{each}" if len(settings) > 1 else stem, each) for each in settings])
        return made

    def target(self, name: str, setting: str) -> Target:
        overlay = self.folder / f"{name}{ASSIGNED}.png" if self.overlays else None
        return Target(setting, self.folder / f"{name}{self.kind}", overlay)


def identity(path: Path) -> Identity | None:
    """The file that a path leads to; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def fingerprint(model: nn.Module) -> str:
    """A digest of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def digest_of(*facts: object) -> str:
    """A short digest of values whose repr tells them apart."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def mark_line(about: str, made: str, source: Path) -> str:
    """One line of ASCII; `about` is for people, `made` the digest of what decides the result."""
    path = unicodedata.normalize("NFC", str(source.resolve()))  # as some file systems change accents
    return f"{PROGRAM}{about}; {made}; {digest_of(path)}".encode("ascii", "replace").decode()


def left_to_do(
    source: Path, inputs: Set[Identity | None], marks: Mapping[Path, str], overwrite: bool, remedy: str
) -> bool:
    """Whether any file is missing or out of date; `marks` are those that the files would get.

    Raises InputError for a file that is an input, whatever links or names lead there; and, unless `overwrite`, for
    one that is not up to date and does not say that it was made from this input; that error ends with `remedy`.
    """
    left = overwrite
    for path, wanted in marks.items():
        there = identity(path)
        if there is None:
            left = True
            continue
        if there in inputs:
            raise InputError(f"{source}: {path} is an input; choose another folder, suffix or format")
        (made, of_path), (there_made, there_path) = digests(wanted), digests(read_mark(path) or "")
        if there_made == made:
            continue
        left = True
        if not overwrite and there_path != of_path:
            raise InputError(f"{source}: {path} exists and does not say that it was made from it; {remedy}")
    return left


def digests(mark: str) -> tuple[str, str]:
    """The two digests of a mark; empty for anything else."""
    about, *found = mark.rsplit("; ", 2)
    return (found[0], found[1]) if about.startswith(PROGRAM) and len(found) == 2 else ("", "")
