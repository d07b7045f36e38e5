"""Many images enlarged one after another: what is done is left alone, and one that fails stops no other."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation.evaluate import Protocol, Row, measure
from inference.outputs import Job, Naming, identity, left_to_do, mark, short
from inference.picture import Enlarged, enlarge
from inference.restore import Restore
from inference.visual import colour_assignment
from utils.decode import read_image
from utils.encode import reduce_to, save_image
from utils.errors import InputError, print_error
from utils.files import check_folder
from utils.image import Image
from utils.metadata import mark_exif


@dataclass(frozen=True)
class Upscale:
    """How images are enlarged and written."""

    restore: Restore
    scale: float
    naming: Naming
    model: str  # its name, for people
    made_by: str  # digest of the model's weights and of what else decides the result beside the settings here
    quality: int | None  # of JPEG and WebP
    opacity: float  # of the assignment's colours
    overwrite: bool

    def marks(self, job: Job) -> dict[Path, str]:
        """What each target bears once it is made. Raises InputError if the input cannot be read."""
        try:
            content = sha256(job.source.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{job.source}: {error.strerror}") from None
        marks = {}
        for targets, look in ((job.pictures, self.quality), (job.overlays, f"overlay {self.opacity}")):
            for setting, path in zip(self.naming.settings, targets, strict=False):  # overlays: all or none
                made = short(content, self.made_by, self.scale, setting, path.suffix, look)
                marks[path] = mark(f"{self.model} x{self.scale:g} {setting}", made, job.source)
        return marks

    def write(self, enlarged: Enlarged, picture: Path, overlay: Path | None, marks: dict[Path, str]) -> list[str]:
        """Write one result; returns a note for everything the format does not hold."""
        image, restored = enlarged
        reduced, notes = reduce_to(picture.suffix, image)
        save_image(picture, replace(reduced, exif=mark_exif(reduced.exif, marks[picture])), self.quality)
        if overlay is not None:
            assert restored.assignment is not None
            colours = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, self.opacity)
            save_image(overlay, Image(colours, None, gray=False, exif=mark_exif(None, marks[overlay])))
        return notes

    def one(self, job: Job, marks: dict[Path, str]) -> list[Row]:
        """Enlarge one image. Raises InputError if it cannot be read, enlarged or written."""
        image = read_image(job.source)
        try:
            results = enlarge(image, self.restore, self.scale)
            overlays: Sequence[Path | None] = job.overlays or [None] * len(results)
            places = zip(results, job.pictures, overlays, strict=True)
            notes = [note for each, picture, overlay in places for note in self.write(each, picture, overlay, marks)]
        except (MemoryError, torch.OutOfMemoryError):
            height, width = image.pixels.shape[:2]
            raise InputError(
                f"{job.source}: {width}x{height} at x{self.scale:g} needs more memory than there is"
            ) from None
        for note in dict.fromkeys(notes):
            with tqdm.external_write_mode(file=sys.stderr):
                print(f"note: {job.source}: {note}", file=sys.stderr)
        return [measure(job.source.name, each.restored, None, Protocol(self.scale)) for each in results]


@dataclass
class Outcome:
    """What became of the inputs."""

    rows: list[Row]  # one per image made and setting
    count: int
    made: int = 0
    there: int = 0  # from an earlier run
    failed: int = 0
    last: Path | None = None  # of the results made


def upscale_all(sources: Sequence[Path], how: Upscale) -> Outcome:
    """Enlarge images, with a bar if there are several; of each that fails, a line on stderr says why.

    Raises InputError if nothing can be done at all: the folder cannot be written to, two results have one name; or if
    there is one image only, and it fails.
    """
    jobs, inputs = how.naming.jobs(sources), {identity(source) for source in sources}
    check_folder(how.naming.folder)
    outcome = Outcome([], len(jobs))
    for job in tqdm(jobs, unit="image", disable=None if len(jobs) > 1 else True):
        try:
            marks = how.marks(job)
            if left_to_do(job, inputs, marks, how.overwrite):
                outcome.rows += how.one(job, marks)
                outcome.made += 1
                outcome.last = job.pictures[-1]
            else:
                outcome.there += 1
        except InputError as error:
            if len(jobs) == 1:
                raise
            outcome.failed += 1
            with tqdm.external_write_mode(file=sys.stderr):
                print_error(str(error))
    return outcome
