"""Image files upscaled to image files, one after another; results that are up to date are left alone."""

import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from inference.options import ACCEPT_DAMAGED, OVERWRITE
from inference.outputs import Identity, OutputFiles, Target, digest_of, identity, left_to_do, mark_line
from inference.picture import restore_image
from inference.reduce import reduce_to
from inference.restore import OnResult, Restore, Restored
from inference.visual import colour_assignment
from utils.cli import say, tell
from utils.decode import read_image
from utils.dist import Ranks
from utils.encode import check_limits, save_image
from utils.errors import InputError, refused_memory
from utils.files import read_bytes
from utils.image import Image
from utils.jobs import Job, Outcome, check_outputs, run_jobs
from utils.metadata import mark_exif
from utils.resize import scaled_size


class Ready(NamedTuple):
    """A model that is ready to restore."""

    restore: Restore
    settings: Sequence[str]  # a result of `restore` for each
    scale: float
    model: str  # its name, for people
    made_by: str  # digest of the weights, and of whatever decides a result and is not among the fields of Upscale


@dataclass(frozen=True)
class Upscale:
    """What restores image files, and how its results are named, written and marked."""

    choose: Callable[[Path], tuple[Ready, str]]  # the model for a file, and why, for people; "" if it was named
    settings: Sequence[str]  # those of every model
    scale: float
    output: OutputFiles
    accept_damaged: bool = False  # take what can be decoded of a damaged file

    def marks(self, source: Path, targets: Sequence[Target], ready: Ready) -> dict[Path, str]:
        """The mark that each file gets. Raises InputError if the source cannot be read."""
        content = sha256(read_bytes(source)).hexdigest()
        looks = (self.output.quality, f"overlay {self.output.opacity}")  # how the files of a target are written
        marks = {}
        for target in targets:
            for path, look in zip(target.files(), looks, strict=False):
                made = digest_of(content, ready.made_by, self.scale, target.setting, path.suffix, look)
                marks[path] = mark_line(f"{ready.model} x{self.scale:g} {target.setting}", made, source)
        return marks

    def one(self, source: Path, targets: Sequence[Target], inputs: Set[Identity | None], on_result: OnResult) -> bool:
        """Upscale one image, unless it is done, and say so.

        Raises InputError if it cannot be read, restored or written.
        """
        with naming(source):
            ready, why = self.choose(source)  # before the time is taken, as it may load a model
        start, marks = time.perf_counter(), self.marks(source, targets, ready)
        paths = ", ".join(str(path) for path in marks)
        if not left_to_do(source, inputs, marks, self.output.overwrite, OVERWRITE):
            say(f"{source}: already there, made from the same image and settings: {paths}")
            return False
        image = read_image(source, self.accept_damaged, ACCEPT_DAMAGED)
        for target in targets:  # before the work is done
            check_limits(target.picture, scaled_size(image.pixels[..., 0], self.scale), image.bits)
        try:
            with naming(source):
                results = restore_image(image, ready.restore)
            notes = [self.write(*each, target, marks) for each, target in zip(results, targets, strict=True)]
        except (MemoryError, RuntimeError) as error:
            if not refused_memory(error):
                raise
            height, width = image.pixels.shape[:2]
            raise InputError(f"{source}: {width}x{height} at x{self.scale:g} needs more memory than there is") from None
        small, large = (f"{each.shape[1]}x{each.shape[0]}" for each in (image.pixels, results[0][0].pixels))
        say(f"{source}: {small} -> {large}, {time.perf_counter() - start:.1f} s, {paths}{why and f' ({why})'}")
        if told := [*image.notes, *notes[0]]:  # those of other settings are the same
            tell(f"note: {source}: {'; '.join(told)}")
        for _, restored in results:
            on_result(source.name, restored)
        return True

    def write(self, image: Image, restored: Restored, target: Target, marks: dict[Path, str]) -> list[str]:
        """Write one result; returns a note for everything that the format does not hold."""

        def save(path: Path, made: Image, quality: int | None = None) -> None:
            save_image(path, replace(made, exif=mark_exif(made.exif, marks[path])), quality)

        reduced, notes = reduce_to(target.picture.suffix, image)
        save(target.picture, reduced, self.output.quality)
        if target.overlay is not None:
            assert restored.assignment is not None
            colours = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, self.output.opacity)
            save(target.overlay, Image(colours, None, gray=False))
        return notes


@contextmanager
def naming(source: Path) -> Iterator[None]:
    """An InputError names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def upscale_all(sources: Sequence[Path], how: Upscale, on_result: OnResult, ranks: Ranks | None = None) -> Outcome:
    """Upscale images, each rank its share, with a bar if there are several; stderr says why an image fails.

    Raises InputError before anything is done if the folder cannot be written to or two results have one name; and if
    there is only one image, and it fails.
    """
    inputs = {identity(source) for source in sources}
    jobs = []
    for source, targets in zip(sources, how.output.targets(sources, how.settings), strict=True):
        files = [path for target in targets for path in target.files()]
        jobs.append(Job(source, files, partial(how.one, source, targets, inputs, on_result)))
    check_outputs(jobs)
    return run_jobs(jobs, ranks=ranks)
