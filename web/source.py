"""What the web page computes: files and the positions of its controls -> pictures and numbers. Knows no web."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch.nn.functional as F
from inference.restore_pcsr import Worker, least_budget
from torch import Tensor

from datasets.folder import fit, mod_crop
from evaluation.evaluate import Protocol, measure
from evaluation.metrics import psnr
from inference.encoding import Knob, held_bytes
from inference.picture import like, visible
from inference.restore import Restored, Setting
from models.flops import PCSRFlops
from utils.decode import read_image, stored_size
from utils.errors import InputError
from utils.image import Array, Image, to_pixels, to_tensor
from utils.resize import downscale, imresize, scaled_size

Enlarged = Literal["bicubic", "nearest"]
HELD = 1 << 30  # bytes that one encoding may take


class Ask(NamedTuple):
    """What to encode: everything that the page asks for but the knob."""

    picture: Path
    reference: Path | None  # HR of the picture, if it was given
    shrink: bool  # the picture is HR: shrink it, restore it, compare
    model: str  # by name
    scale: float


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for."""

    pixels: int  # of a picture, given or made
    held: int = field(default=HELD)


class Number(NamedTuple):
    """A number as the page shows it."""

    label: str
    value: str
    note: str = ""


def upload(path: Path, most: int) -> Image:
    """Decode a visitor's file of at most that many pixels. Raises InputError, which tells the name, not the folder."""
    if not path.exists():
        raise InputError(f"{path.name}: no longer here, send it again")
    count = math.prod(stored_size(path))
    if count > most:
        raise InputError(f"{path.name}: {count / 1e6:.1f} million pixels are more than the {most / 1e6:g} allowed here")
    try:
        return read_image(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None


class Source:
    """A picture ready to be restored under any setting; whatever the page shows besides follows from it."""

    def __init__(self, ask: Ask, worker: Worker, limits: Limits) -> None:
        """Decode and encode. Raises InputError for files that cannot be used, and beyond the limits."""
        image, name = upload(ask.picture, limits.pixels), Path(ask.picture.name)
        self.hr: Tensor | None = None  # (1,3,H,W), if there is one to compare with
        if ask.shrink:  # as demo.py does
            self.hr = mod_crop(to_tensor(image.pixels), ask.scale, name)
            self.lr = downscale(self.hr, ask.scale)  # (1,3,h,w)
            image = Image(to_pixels(self.lr), None, gray=False)
        else:
            self.lr = visible(image)
        self.image, self.worker, self.scale = image, worker, ask.scale
        self.size = scaled_size(self.lr, ask.scale)
        height, width = self.size
        if height * width > limits.pixels:
            raise InputError(
                f"{name}: x{ask.scale:g} makes {width}x{height}, {height * width / 1e6:.1f} million pixels, more than "
                f"the {limits.pixels / 1e6:g} allowed here: choose a smaller scale or picture"
            )
        if ask.reference is not None and not ask.shrink:
            reference = to_tensor(upload(ask.reference, limits.pixels).pixels)
            try:
                self.hr = fit(reference, self.lr, ask.scale, Path(ask.reference.name), name)
            except InputError as error:
                raise InputError(str(error).replace("--scale", "the scale")) from None  # there are no options here
        fits = held_bytes(worker, self.lr, ask.scale) <= limits.held
        self.knob = Knob(worker, self.lr, ask.scale, image.bits) if fits else None
        self.bicubic = psnr(self.enlarged("bicubic"), self.hr, round(ask.scale)) if self.hr is not None else None

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        tensors = self.lr.nbytes + (0 if self.hr is None else self.hr.nbytes) + self.image.pixels.nbytes
        return tensors + (0 if self.knob is None else self.knob.nbytes)

    def restore(self, setting: Setting, refinement: bool) -> Restored:
        """The picture under one setting: from its encoding, or all over again if that is too large to be held."""
        if self.knob is not None:
            return self.knob.restore(setting, refinement)
        return self.worker.restore(self.lr, self.scale, [setting], refinement, bits=self.image.bits)[0]

    def enlarged(self, how: Enlarged) -> Tensor:
        """lr at the result's size (1,3,H,W), without a model."""
        if how == "nearest":
            return F.interpolate(self.lr, size=self.size, mode="nearest-exact")
        return imresize(self.lr, self.size).clamp(0, 1)

    def like(self, pixels: Array) -> Image:
        """Pixels (H,W,3) as a picture of the kind that was given."""
        return like(self.image, pixels)

    def numbers(self, restored: Restored, with_ssim: bool) -> list[Number]:
        """What a result is worth and what it took. SSIM takes longer than all the rest, and can wait."""
        row = measure("", restored, self.hr, Protocol(self.scale, with_ssim=with_ssim))
        spent, heavy = restored.flops, restored.reference
        shares = {"paper": spent.paper / heavy.paper, "executed": spent.executed / heavy.executed}
        took = "encoding included" if self.knob is None else f"encoded in {self.knob.seconds:.2f}"
        shown = [
            Number("Heavy pixels", f"{100 * restored.heavy_share:.1f} %", "of all"),
            *(
                Number(f"GFLOPs, {account}", giga(getattr(spent, account)), f"{100 * share:.1f} % of all heavy")
                for account, share in shares.items()
            ),
            Number("Seconds", f"{restored.seconds:.2f}", took),
        ]
        if self.bicubic is not None:
            gain = f"{row.psnr - self.bicubic:+.2f} over bicubic"
            shown.append(Number("PSNR, dB", f"{row.psnr:.2f}", gain))
            shown.append(Number("SSIM", f"{row.ssim:.4f}" if with_ssim else "...", "8-bit RGB"))
        return shown

    @property
    def note(self) -> str:
        """What a visitor should know besides; empty if nothing."""
        if self.knob is not None:
            return ""
        held = held_bytes(self.worker, self.lr, self.scale) / 1e9
        return f"This picture is too large to be kept encoded ({held:.1f} GB): every move of the knob takes all over."


def giga(flops: float) -> str:
    """In units of 1e9: a decimal from ten on, else three digits."""
    return f"{flops / 1e9:.1f}" if flops >= 1e10 else f"{flops / 1e9:.3g}"


def setting_of(rule: str, k: float, budget: float, account: PCSRFlops, scale: float) -> Setting:
    """What the knob says; a budget below the model's lowest at this scale is that."""
    if rule == "budget":
        return Setting("budget", min(max(budget, least_budget(account, scale)), 1.0))
    return Setting("adaptive") if rule == "adaptive" else Setting("k", k)
