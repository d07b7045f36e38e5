"""Image files upscaled to image files, one after another: what is done already is left alone."""

import argparse
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from inference.outputs import Identity, OutputFiles, Target, identity, left_to_do, mark_line, short
from inference.picture import restore_image
from inference.reduce import reduce_to
from inference.restore import Restore, Restored
from inference.visual import colour_assignment
from utils.cli import say, tell
from utils.decode import read_image
from utils.dist import Ranks
from utils.encode import QUALITY, save_image
from utils.errors import InputError
from utils.files import read_bytes
from utils.image import Image
from utils.jobs import Job, Outcome, check_outputs, run_jobs
from utils.metadata import mark_exif

Report = Callable[[str, Restored], None]  # is told of every result: the image's name, and what the model made


@dataclass(frozen=True)
class Upscale:
    """What restores image files, and how its results are named, written and marked."""

    restore: Restore
    settings: Sequence[str]  # a result of `restore` for each
    scale: float
    output: OutputFiles
    model: str  # its name, for people
    made_by: str  # digest of the model's weights and of what else decides the result beside the settings here
    accept_damaged: bool = False  # take what can be decoded of a file

    def marks(self, source: Path, targets: Sequence[Target]) -> dict[Path, str]:
        """What each file bears once it is written. Raises InputError if the source cannot be read."""
        content = sha256(read_bytes(source)).hexdigest()
        looks = (self.output.quality, f"overlay {self.output.opacity}")  # of a target's files, in their order
        marks = {}
        for target in targets:
            for path, look in zip(target.files(), looks, strict=False):
                made = short(content, self.made_by, self.scale, target.setting, path.suffix, look)
                marks[path] = mark_line(f"{self.model} x{self.scale:g} {target.setting}", made, source)
        return marks

    def one(self, source: Path, targets: Sequence[Target], inputs: Set[Identity | None], report: Report) -> bool:
        """Upscale one image, unless it is done, and say so.

        Raises InputError if it cannot be read, restored or written.
        """
        start, marks = time.perf_counter(), self.marks(source, targets)
        paths = ", ".join(str(path) for path in marks)
        if not left_to_do(source, inputs, marks, self.output.overwrite):
            say(f"{source}: already there, made of the same picture and settings: {paths}")
            return False
        image = read_image(source, self.accept_damaged)
        try:
            results = restore_image(image, self.restore)
            notes = [self.write(*each, target, marks) for each, target in zip(results, targets, strict=True)]
        except (MemoryError, torch.OutOfMemoryError):
            height, width = image.pixels.shape[:2]
            size = f"{width}x{height} at x{self.scale:g}"
            raise InputError(f"{source}: {size} needs more memory than there is") from None
        small, large = (f"{each.shape[1]}x{each.shape[0]}" for each in (image.pixels, results[0][0].pixels))
        say(f"{source}: {small} -> {large}, {time.perf_counter() - start:.1f} s, {paths}")
        if told := [*image.notes, *notes[0]]:  # those of other settings are the same
            tell(f"note: {source}: {'; '.join(told)}")
        for _, restored in results:
            report(source.name, restored)
        return True

    def write(self, image: Image, restored: Restored, target: Target, marks: dict[Path, str]) -> list[str]:
        """Write one result; returns a note for everything that the format does not hold."""
        reduced, notes = reduce_to(target.picture.suffix, image)
        save_marked(target.picture, reduced, marks, self.output.quality)
        if target.overlay is not None:
            assert restored.assignment is not None
            colours = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, self.output.opacity)
            save_marked(target.overlay, Image(colours, None, gray=False), marks)
        return notes


def save_marked(path: Path, image: Image, marks: dict[Path, str], quality: int | None = None) -> None:
    save_image(path, replace(image, exif=mark_exif(image.exif, marks[path])), quality)


def upscale_all(sources: Sequence[Path], how: Upscale, report: Report, ranks: Ranks | None = None) -> Outcome:
    """Upscale images, each rank its share, with a bar if there are several; of each that fails, stderr says why.

    Raises InputError if nothing can be done at all: the folder cannot be written to, two results have one name; or if
    there is one image only, and it fails.
    """
    inputs = {identity(source) for source in sources}
    jobs = []
    for source, targets in zip(sources, how.output.targets(sources, how.settings), strict=True):
        files = [path for target in targets for path in target.files()]
        jobs.append(Job(source, files, partial(how.one, source, targets, inputs, report)))
    check_outputs(jobs)
    return run_jobs(jobs, ranks=ranks)


def add_upscale_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--suffix", help="of the results' names (default: _x and the scale); --suffix=-big")
    kinds = ("png", "jpg", "webp", "tif")
    group.add_argument("--format", choices=kinds, default="png", help="of the results (default: png, lossless as tif)")
    group.add_argument("--quality", type=int, default=QUALITY, help=f"of jpg and webp, 1 .. 100 (default: {QUALITY})")
    about = "write the assignment beside each result: the picture in gray, red where it was difficult"
    group.add_argument("--assignment", action="store_true", help=about)
    about = "make what is up to date again, and replace what was not made from the picture; never an input"
    group.add_argument("--overwrite", action="store_true", help=about)


def chosen_output(args: argparse.Namespace) -> OutputFiles:
    """How results are named and written. Raises InputError for a suffix or a quality that cannot be."""
    suffix = f"_x{args.scale:g}" if args.suffix is None else args.suffix
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix {suffix}: not part of a file name")
    if not 1 <= args.quality <= 100:
        raise InputError(f"--quality {args.quality}: must lie between 1 and 100")
    quality = args.quality if args.format in ("jpg", "webp") else None
    folder, kind = Path(args.out_dir), f".{args.format}"
    return OutputFiles(folder, suffix, kind, quality, args.assignment, args.opacity, args.overwrite)
