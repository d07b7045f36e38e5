"""What a visitor of the web page has: a picture, its encoding, and the results with their numbers. Independent of the
web framework.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2

from datasets.folder import fit, mod_crop
from evaluation.metrics import psnr, ssim
from inference.automatic import CLEAN, PHOTOS, weights_for
from inference.encoding import Encoding, held_bytes
from inference.picture import as_kind_of, notes_on_colours, visible
from inference.precision import name_of
from inference.reduce import reduce_to
from inference.restore import Restored
from inference.visual import colour_assignment
from models.decide import least_budget
from models.fast.engine import Engine
from models.setting import Setting
from utils.decode import read_image, stored_size
from utils.device import give_back
from utils.encode import QUALITY, check_limits, save_image, write_image
from utils.errors import InputError, refused_memory
from utils.image import Image, to_pixels, to_tensor
from utils.resize import downscale, imresize, scaled_size
from web.views import VIEW, Place, loupe_views, most_difficult, screen_size, shrunk, whole_views

COMPARED = 4  # a picture that results are compared with may have this many times fewer pixels: it is held as float32
AUTOMATIC = "auto"  # the model that the file decides
LOADING = 30  # seconds that a replaced result is kept, as a browser may still be loading it


class Ask(NamedTuple):
    """What a visitor wants encoded."""

    picture: Path
    reference: Path | None  # HR of the picture, if it was sent too
    shrink: bool  # the picture is HR: make LR of it, restore that, and compare
    model: str  # the name of one, or AUTOMATIC
    scale: float


class Answer(NamedTuple):
    """What a visitor gets."""

    before: Path  # the picture resized by bicubic, to the size of a screen
    after: Path  # the result, in that size
    overlay: Path  # the assignment, in that size
    download: Path  # the result
    loupe: tuple[Path, Path]  # before and after as they are, around a place
    numbers: list[tuple[str, str, str]]  # label, value, remark
    notes: list[str]  # about the model if it was AUTOMATIC, the reference, and contents of the file that are left out


@dataclass
class Service:
    """What all visitors share."""

    engines: dict[str, Engine]
    pixels: int  # the most that an upload or a result may have
    root: Path  # folder of all files
    memory: int = 2 << 30  # bytes for the encodings of all visitors, of which one may take half
    encoded: dict["Session", "Picture"] = field(default_factory=dict)  # ordered by last use

    @property
    def models(self) -> list[str]:
        """What can be chosen as the model. AUTOMATIC is the first, unless one that it would take is missing."""
        return [*[AUTOMATIC] * (self.engines.keys() >= {CLEAN, PHOTOS}), *self.engines]

    def behind(self, model: str) -> list[Engine]:
        """The engine of a model; all that may be taken if it is AUTOMATIC."""
        return [self.engines[name] for name in ((CLEAN, PHOTOS) if model == AUTOMATIC else (model,))]


@contextmanager
def memory_named() -> Iterator[None]:
    """Where memory is refused, raise InputError, which says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not refused_memory(error):
            raise
        raise InputError("this needs more memory than there is: choose a smaller scale or picture") from None


def read_upload(path: Path, most: int) -> Image:
    """Decode a file of at most `most` pixels. Raises InputError, which names the file without its folder."""
    if not path.exists():
        raise InputError(f"{path.name}: no longer here, send it again")
    size = stored_size(path)
    refuse(path, "", math.prod(size), most)
    try:
        # its notes tell what is damaged; if its size cannot be told, it might be of any size, and is not taken
        return read_image(path, accept_damaged=0 not in size)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None


def refuse(path: Path, made: str, count: int, most: int) -> None:
    """Raises InputError if a picture has more pixels than are allowed, and says what helps."""
    if count > most:
        raise InputError(
            f"{path.name}: {made}{count / 1e6:.1f} million pixels are more than the {most / 1e6:g} allowed here: "
            "choose a smaller scale or picture, or let whoever runs this page start it with a larger --max_pixels"
        )


class Picture:
    """A picture that can be restored under any setting."""

    def __init__(self, ask: Ask, service: Service) -> None:
        """Read and encode.

        Raises InputError for files that cannot be used, and for more pixels than are allowed.
        """
        most, name, model = service.pixels, Path(ask.picture.name), ask.model
        self.scale, self.notes = ask.scale, list[str]()  # on the choice of the model, and on the reference
        self.image = read_upload(ask.picture, most // COMPARED if ask.shrink else most)
        if model == AUTOMATIC:
            model, why = weights_for(None, "shrunk first") if ask.shrink else weights_for(self.image.lossy)
            self.notes.append(f"{why}, {model}")
        self.engine = service.engines[model]
        self.hr = mod_crop(to_tensor(self.image.pixels), ask.scale, name) if ask.shrink else None  # (1,3,H,W)
        if self.hr is None:
            self.lr = visible(self.image)  # (1,3,h,w)
        else:
            self.lr = downscale(self.hr, ask.scale)
            self.image = Image(to_pixels(self.lr), None, gray=False, notes=notes_on_colours(self.image))
        height, width = scaled_size(self.lr, ask.scale)
        refuse(name, f"x{ask.scale:g} makes {width}x{height}, ", height * width, most)
        if ask.reference is not None and not ask.shrink:
            reference = read_upload(ask.reference, most // COMPARED)
            self.hr = fit(to_tensor(reference.pixels), self.lr, ask.scale, Path(ask.reference.name), name)
            self.notes += [f"{ask.reference.name}: {note}" for note in notes_on_colours(reference)]
        self.bicubic = math.nan
        if self.hr is not None:
            self.bicubic = psnr(imresize(self.lr, (height, width)), self.hr, round(ask.scale))
        keep = held_bytes(self.engine, self.lr, ask.scale) <= service.memory / 2
        self.encoding = Encoding(self.engine, self.lr, ask.scale, self.image.bits, keep=keep)
        self.last: tuple[Setting, Restored] | None = None  # the result that is shown

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        held = [each for each in (self.image.pixels, self.image.alpha, self.lr, self.hr) if each is not None]
        if self.last is not None:
            held += [array for array in (self.last[1].pixels, self.last[1].assignment) if array is not None]
        return self.encoding.nbytes + sum(each.nbytes for each in held)

    @memory_named()
    def restore(self, setting: Setting) -> Restored:
        """The picture under one setting, in the model's own precision.

        A budget below the least that the model can meet is raised to that. Raises InputError if memory is refused.
        """
        setting = replace(setting, precision=name_of(self.engine.precision))
        if setting.rule == "budget":
            least = least_budget(self.engine.flops, self.scale)
            setting = replace(setting, value=max(setting.value, least))
        if self.last is None or self.last[0] != setting:
            self.last = setting, self.encoding.restore([setting])[0]
            give_back(self.lr)
        return self.last[1]

    def numbers(self, restored: Restored) -> list[tuple[str, str, str]]:
        """What a result took, and its PSNR if there is HR to compare with."""
        spent, heavy = restored.flops, restored.reference
        numbers = [("Difficult pixels", f"{100 * restored.heavy_share:.1f} %", "took the heavy network")]
        billions = f"{spent.paper / 1e9:.3g} GFLOPs, {spent.executed / 1e9:.3g} executed"
        numbers.append(("Work", f"{100 * spent.paper / heavy.paper:.1f} %", f"of all heavy: {billions}"))
        took = f"encoded in {self.encoding.seconds:.2f}" if self.encoding.keep else "too large to keep its encoding"
        numbers.append(("Seconds", f"{restored.seconds:.2f}", took))
        height, width = restored.pixels.shape[:2]
        numbers.append(("Result", f"{width}x{height}", f"{self.image.bits} bits per colour"))
        if self.hr is not None:
            found = psnr(to_tensor(restored.pixels), self.hr, round(self.scale))
            numbers.append(("PSNR, dB", f"{found:.2f}", f"{found - self.bicubic:+.2f} over bicubic"))
        return numbers


class Session:
    """One visitor's picture, and the files of the last results."""

    def __init__(self, ask: Ask, service: Service) -> None:
        self.ask, self.service = ask, service
        self.folder = Path(tempfile.mkdtemp(dir=service.root))  # nobody can guess its name
        self.setting, self.place = Setting(), Place(0.5, 0.5)
        self.shown: tuple[int, int] | None = None  # (H,W) of the views of the whole
        self.current: Path | None = None  # the folder of the answer that is shown
        self.closed = False

    @memory_named()
    def encoded(self) -> Picture:
        """The picture, encoded.

        When memory runs out, those least recently used are dropped, and encoded again when needed. Raises InputError if
        the system refuses memory nevertheless, or if the session was closed meanwhile, by another thread.
        """
        pictures = self.service.encoded
        pictures[self] = picture = pictures.pop(self, None) or Picture(self.ask, self.service)
        for other in list(pictures)[:-1]:
            if sum(each.nbytes for each in list(pictures.values())) > self.service.memory:
                pictures.pop(other, None)  # its visitor may have left meanwhile
        if self.closed:
            pictures.pop(self, None)
            raise InputError(f"{self.ask.picture.name}: no longer here, send it again")
        return picture

    def encoded_for(self, kind: str) -> Picture:
        """The picture, encoded. Raises InputError also if a file of this kind cannot hold its result."""
        picture = self.encoded()
        check_limits(Path(f"result{kind}"), scaled_size(picture.lr, picture.scale), picture.image.bits)
        return picture

    def answer(self, setting: Setting, kind: str = ".png") -> Iterator[Answer]:
        """Pictures and numbers at once; SSIM, which takes longer, follows if there is HR to compare with.

        kind: of the file to download, .png, .tif, .jpg or .webp. Raises InputError as Picture does.
        """
        picture = self.encoded_for(kind)
        restored = picture.restore(setting)
        assert restored.assignment is not None
        if self.current is None:  # the first answer
            self.place = most_difficult(restored.assignment)
        self.setting = setting
        self.current = folder = self.new_folder()
        result = as_kind_of(picture.image, restored.pixels)
        before, after = (folder / f"{name}{VIEW}" for name in ("bicubic", restored.setting))
        for path, each in zip((before, after), whole_views(picture.image, picture.lr, result), strict=True):
            save_image(path, each, QUALITY)
        overlay = folder / "assignment.jpg"
        small = shrunk(restored.pixels), shrunk(restored.assignment, cv2.INTER_NEAREST)
        write_image(overlay, colour_assignment(*small, restored.upsamplers))
        self.shown = screen_size((restored.pixels.shape[0], restored.pixels.shape[1]))
        download, told = self.save(folder, result, restored.setting, kind)
        numbers = picture.numbers(restored)
        answer = Answer(before, after, overlay, download, self.loupe(folder), numbers, [*picture.notes, *told])
        if picture.hr is None:
            yield answer
            return
        yield answer._replace(numbers=[*numbers, ("SSIM", "...", "8-bit RGB")])
        found = ssim(to_tensor(restored.pixels), picture.hr, round(self.ask.scale))
        yield answer._replace(numbers=[*numbers, ("SSIM", f"{found:.4f}", "8-bit RGB")])

    def only_file(self, folder: Path, setting: Setting, kind: str) -> tuple[Path, list[str]]:
        """The file to download and the notes of `answer`, without pictures for a screen."""
        picture = self.encoded_for(kind)
        restored = picture.restore(setting)
        path, told = self.save(folder, as_kind_of(picture.image, restored.pixels), restored.setting, kind)
        return path, [*picture.notes, *told]

    def save(self, folder: Path, result: Image, setting: str, kind: str) -> tuple[Path, list[str]]:
        """Write the file to download; returns it, and notes on what is left out."""
        path = folder / f"{self.ask.picture.stem}_x{self.ask.scale:g}_{setting}{kind}"
        reduced, notes = reduce_to(kind, result)
        save_image(path, reduced, QUALITY if kind in (".jpg", ".webp") else None)
        return path, [*result.notes, *notes]

    def look(self, place: Place) -> tuple[Path, Path]:
        """Before and after as they are, around another place."""
        self.place = place
        return self.loupe(self.new_folder())

    def loupe(self, folder: Path) -> tuple[Path, Path]:
        picture = self.encoded()
        result = as_kind_of(picture.image, picture.restore(self.setting).pixels)
        before, after = folder / f"loupe_before{VIEW}", folder / f"loupe_after{VIEW}"
        for path, each in zip((before, after), loupe_views(picture.image, picture.lr, result, self.place), strict=True):
            save_image(path, each)
        return before, after

    def new_folder(self) -> Path:
        """For files of one answer, as browsers cache by address; old ones go, but for the answer that is shown."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for old in self.folder.glob("*/"):
            if old not in (folder, self.current) and time.time() - old.stat().st_mtime > LOADING:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Forget the picture, and delete what was made of it."""
        self.closed = True
        self.service.encoded.pop(self, None)
        shutil.rmtree(self.folder, ignore_errors=True)
