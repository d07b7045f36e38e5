"""What a visitor of the web page has: a picture, its encoding, and the results with their numbers. Independent of the
web framework.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from datasets.folder import fit, mod_crop
from evaluation.metrics import psnr, ssim
from inference.encoding import Encoding, held_bytes
from inference.picture import like, visible
from inference.restore import Restored
from inference.visual import colour_assignment
from models.checkpoint import WEIGHTS, load_model
from models.decide import least_budget
from models.fast.engine import Engine
from models.pcsr import PCSR
from models.setting import Setting
from utils.decode import read_image, stored_size
from utils.encode import save_image, write_image
from utils.errors import InputError
from utils.image import Image, to_pixels, to_tensor
from utils.resize import downscale, imresize, scaled_size

LOADING = 30  # seconds that a replaced result is kept, as a browser may still be loading it


class Ask(NamedTuple):
    """What a visitor wants encoded."""

    picture: Path
    reference: Path | None  # HR of the picture, if it was sent too
    shrink: bool  # the picture is HR: make LR of it, restore that, and compare
    model: str
    scale: float


class Answer(NamedTuple):
    """What a visitor gets."""

    before: Path  # the picture resized by bicubic
    after: Path  # lossless, as deep as the picture, with its alpha
    overlay: Path
    numbers: list[tuple[str, str, str]]  # label, value, remark


@dataclass
class Service:
    """What all visitors share."""

    engines: dict[str, Engine]
    pixels: int  # the most that an upload or a result may have
    root: Path  # of all files
    memory: int = 2 << 30  # bytes for the encodings of all visitors, of which one may take half
    encoded: dict["Session", "Picture"] = field(default_factory=dict)  # ordered by last use


def load_engines(save: Path, device: torch.device) -> dict[str, Engine]:
    """The PCSR models under save/ that have a classifier, by name. Raises InputError if there is none."""
    models = {path.parent.name: load_model(path)[0] for path in sorted(save.glob(f"*/{WEIGHTS}"))}
    chosen = {name: model for name, model in models.items() if isinstance(model, PCSR) and model.classifier is not None}
    if not chosen:
        raise InputError(f"{save}: no PCSR model with a classifier in it; train one (phase 1), or run this where it is")
    return {name: Engine(model, device) for name, model in chosen.items()}


def read_upload(path: Path, most: int) -> Image:
    """Decode a file of at most so many pixels. Raises InputError, which names the file without its folder."""
    if not path.exists():
        raise InputError(f"{path.name}: no longer here, send it again")
    count = math.prod(stored_size(path))
    if count > most:
        raise InputError(f"{path.name}: {count / 1e6:.1f} million pixels are more than the {most / 1e6:g} allowed here")
    try:
        return read_image(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None


class Picture:
    """A picture that can be restored under any setting."""

    def __init__(self, ask: Ask, service: Service, before: Path) -> None:
        """Read and encode, and write the picture resized by bicubic to `before`.

        Raises InputError for files that cannot be used, and for more pixels than are allowed.
        """
        most, name = service.pixels, Path(ask.picture.name)
        self.image, self.scale, self.engine = read_upload(ask.picture, most), ask.scale, service.engines[ask.model]
        self.hr = mod_crop(to_tensor(self.image.pixels), ask.scale, name) if ask.shrink else None  # (1,3,H,W)
        if self.hr is None:
            self.lr = visible(self.image)  # (1,3,h,w)
        else:
            self.lr = downscale(self.hr, ask.scale)
            self.image = Image(to_pixels(self.lr), None, gray=False)
        height, width = scaled_size(self.lr, ask.scale)
        if height * width > most:
            raise InputError(
                f"{name}: x{ask.scale:g} makes {width}x{height}, {height * width / 1e6:.1f} million pixels, more than "
                f"the {most / 1e6:g} allowed here: choose a smaller scale or picture"
            )
        if ask.reference is not None and not ask.shrink:
            reference = to_tensor(read_upload(ask.reference, most).pixels)
            self.hr = fit(reference, self.lr, ask.scale, Path(ask.reference.name), name)
        bicubic = imresize(self.lr, (height, width))
        save_image(before, like(self.image, to_pixels(bicubic, self.image.bits)))
        self.bicubic = math.nan if self.hr is None else psnr(bicubic, self.hr, round(ask.scale))
        self.kept = held_bytes(self.engine, self.lr, ask.scale) <= service.memory / 2
        self.encoding = Encoding(self.engine, self.lr, ask.scale, self.image.bits, keep=self.kept)
        hr_bytes = 0 if self.hr is None else self.hr.nbytes
        self.nbytes = self.image.pixels.nbytes + self.lr.nbytes + hr_bytes + self.encoding.nbytes

    def restore(self, setting: Setting) -> Restored:
        """The picture under one setting; a budget below the least that the model can meet is raised to that."""
        if setting.rule == "budget":
            least = least_budget(self.engine.account, self.scale)
            setting = replace(setting, value=max(setting.value, least))
        return self.encoding.restore([setting])[0]

    def numbers(self, restored: Restored) -> list[tuple[str, str, str]]:
        """What a result took, and its PSNR if there is HR to compare with."""
        numbers = [("Heavy pixels", f"{100 * restored.heavy_share:.1f} %", "of all")]
        for account in ("paper", "executed"):
            spent, heavy = getattr(restored.flops, account), getattr(restored.reference, account)
            value = f"{spent / 1e9:.1f}" if spent >= 1e10 else f"{spent / 1e9:.3g}"
            numbers.append((f"GFLOPs, {account}", value, f"{100 * spent / heavy:.1f} % of all heavy"))
        took = f"encoded in {self.encoding.seconds:.2f}" if self.kept else "too large to keep its encoding"
        numbers.append(("Seconds", f"{restored.seconds:.2f}", took))
        if self.hr is not None:
            found = psnr(to_tensor(restored.pixels), self.hr, round(self.scale))
            numbers.append(("PSNR, dB", f"{found:.2f}", f"{found - self.bicubic:+.2f} over bicubic"))
        return numbers


class Session:
    """One visitor's picture, and the files of the last results."""

    def __init__(self, ask: Ask, service: Service) -> None:
        self.ask, self.service = ask, service
        self.folder = Path(tempfile.mkdtemp(dir=service.root))  # nobody can guess its name
        self.before = self.folder / "bicubic.png"

    def encoded(self) -> Picture:
        """The picture, encoded. When memory runs out, those least recently used are dropped, and encoded again when
        needed.
        """
        pictures = self.service.encoded
        pictures[self] = picture = pictures.pop(self, None) or Picture(self.ask, self.service, self.before)
        for other in list(pictures)[:-1]:
            if sum(each.nbytes for each in list(pictures.values())) > self.service.memory:
                pictures.pop(other, None)  # its visitor may have left meanwhile
        return picture

    def answer(self, setting: Setting) -> Iterator[Answer]:
        """Pictures and numbers at once; SSIM, which takes longer, follows if there is HR to compare with.

        Raises InputError as Picture does.
        """
        picture = self.encoded()
        restored = picture.restore(setting)
        assert restored.assignment is not None
        folder = Path(tempfile.mkdtemp(dir=self.folder))  # a new one, because browsers cache by address
        after = folder / f"{self.ask.picture.stem}_x{self.ask.scale:g}_{restored.setting}.png"
        overlay = after.with_name(f"{after.stem}_assignment.jpg")
        save_image(after, like(picture.image, restored.pixels))
        write_image(overlay, colour_assignment(restored.pixels, restored.assignment, restored.upsamplers))
        for old in self.folder.glob("*/"):
            if old != folder and time.time() - old.stat().st_mtime > LOADING:
                shutil.rmtree(old, ignore_errors=True)
        self.before.touch()  # the server deletes files that are old
        numbers = picture.numbers(restored)
        if picture.hr is None:
            yield Answer(self.before, after, overlay, numbers)
            return
        yield Answer(self.before, after, overlay, [*numbers, ("SSIM", "...", "8-bit RGB")])
        found = ssim(to_tensor(restored.pixels), picture.hr, round(self.ask.scale))
        yield Answer(self.before, after, overlay, [*numbers, ("SSIM", f"{found:.4f}", "8-bit RGB")])

    def close(self) -> None:
        """Forget the picture, and delete what was made of it."""
        self.service.encoded.pop(self, None)
        shutil.rmtree(self.folder, ignore_errors=True)
