"""Where results go: a name for each, and whether a file may be written there or is there already.

Each result carries a mark in its EXIF block: the program, model and settings for people, then a digest of the input
file's content and everything that decides the result, then one of the input's name. A result with the right digest
is done; one of the same name with another is made again; any other file stays.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from utils.errors import InputError
from utils.metadata import read_mark

OURS = "PCSR "
Identity = tuple[int, int]  # of a file, whatever links lead to it


@dataclass(frozen=True)
class Job:
    """One input and its results, a path per setting."""

    source: Path
    pictures: Sequence[Path]
    overlays: Sequence[Path]  # empty if they are not asked for

    def targets(self) -> list[Path]:
        return [*self.pictures, *self.overlays]


@dataclass(frozen=True)
class Naming:
    """How results are named: STEM SUFFIX [_SETTING] [_assignment] KIND."""

    folder: Path
    suffix: str
    kind: str  # .png, .jpg or .webp
    settings: Sequence[str]
    overlays: bool

    def job(self, source: Path, stem: str) -> Job:
        several = len(self.settings) > 1
        names = [f"{stem}{self.suffix}" + (f"_{setting}" if several else "") for setting in self.settings]
        pictures = [self.folder / f"{name}{self.kind}" for name in names]
        overlays = [self.folder / f"{name}_assignment.png" for name in names]
        return Job(source, pictures, overlays if self.overlays else [])

    def jobs(self, sources: Sequence[Path]) -> list[Job]:
        """A job per source; of sources that differ in nothing but their suffix (a.png, a.jpg) it is in the name.

        Raises InputError if two results would still have one name.
        """
        stems = Counter(folded(source.stem) for source in sources)
        jobs = []
        owner: dict[str, Path] = {}
        for source in sources:
            alone = stems[folded(source.stem)] == 1
            job = self.job(source, source.stem if alone else f"{source.stem}_{source.suffix[1:]}")
            for target in job.targets():
                other = owner.setdefault(folded(target.name), source)
                if other is not source:
                    raise InputError(
                        f"{other} and {source} would both become {target}; rename one, or do one at a time"
                    )
            jobs.append(job)
        return jobs


def folded(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def identity(path: Path) -> Identity | None:
    """The file that a path leads to; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def fingerprint(model: nn.Module) -> str:
    """Of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def short(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def mark(about: str, made: str, source: Path) -> str:
    """One line of ASCII; `about` is for people."""
    return f"{OURS}{about}; {made}; {short(folded(source.name))}".encode("ascii", "replace").decode()


def left_to_do(job: Job, inputs: Set[Identity | None], marks: Mapping[Path, str], overwrite: bool) -> bool:
    """Whether something is left to do. `marks` are what each target would bear.

    Raises InputError for a target that is an input, whatever links or names lead there; and, unless `overwrite`, for
    one that no run on an input of this name made.
    """
    done = True
    for target in job.targets():
        there = identity(target)
        if there is not None and there in inputs:
            raise InputError(f"{job.source}: {target} is an input; choose another --out_dir, --suffix or --format")
        old = None if there is None else read_mark(target) or ""
        done = done and old == marks[target] and not overwrite
        if old is not None and not overwrite and not same_origin(old, marks[target]):
            raise InputError(f"{job.source}: {target} exists and was not made from it; --overwrite replaces it")
    return not done


def same_origin(one: str, other: str) -> bool:
    """Whether two marks are of inputs of the same name."""
    return one.startswith(OURS) and one.rpartition("; ")[2] == other.rpartition("; ")[2]
