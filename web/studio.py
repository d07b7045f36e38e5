"""The visitors of the web page: each one's encoding and files, within the memory there is."""

import math
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from inference.restore_pcsr import Worker, least_budget

from inference.restore import LARGE
from inference.visual import colour_assignment
from models.checkpoint import WEIGHTS, load_model
from models.pcsr import PCSR
from utils.config import PCSRSpec, load_config
from utils.encode import save_image, write_image
from utils.errors import InputError
from utils.image import to_pixels
from web.source import Ask, Enlarged, Limits, Number, Source, setting_of

LOADING = 30  # seconds for which a browser may still be loading an answer that another has followed
VISITORS = 100  # whose files stay
ENCODINGS = 2  # times the limit of one, what all visitors' encodings may take together


def models_in(save: Path) -> dict[str, Path]:
    """The PCSR models with something to decide, by name. Raises InputError if there is none."""
    folders = sorted(path.parent for path in save.glob(f"*/{WEIGHTS}") if (path.parent / "config.yaml").exists())
    specs = {folder.name: load_config(folder / "config.yaml").model for folder in folders}
    chosen = {name: save / name for name, spec in specs.items() if isinstance(spec, PCSRSpec) and spec.classifier}
    if not chosen:
        raise InputError(f"{save}: no PCSR model with a classifier in it; train one (phase 1), or run this where it is")
    return chosen


@dataclass(frozen=True)
class Knobs:
    """What the page's knob and switches say."""

    rule: str  # k, budget or adaptive
    k: float
    budget: float
    refinement: bool
    enlarged: Enlarged  # what the result is compared with


@dataclass(frozen=True)
class Answer:
    """What the page shows."""

    before: Path
    after: Path  # lossless, as deep as the picture, with its alpha: also what is downloaded
    overlay: Path
    numbers: list[Number]
    note: str


class Visit:
    """One visitor's picture: what it was made into, and the files of the last answers."""

    def __init__(self, ask: Ask, root: Path) -> None:
        self.ask, self.folder = ask, Path(tempfile.mkdtemp(dir=root))  # nobody can guess its name
        self.answers: list[tuple[float, Path]] = []  # when it was made, and where its files are
        self.source: Source | None = None  # made again from the files when memory was short

    def new_folder(self, index: int) -> Path:
        """Where the next answer goes: browsers keep what they once loaded from an address."""
        now = time.monotonic()
        while self.answers and now - self.answers[0][0] > LOADING:
            shutil.rmtree(self.answers.pop(0)[1], ignore_errors=True)
        self.answers.append((now, self.folder / str(index)))
        return self.answers[-1][1]


class Studio:
    """Answers one visitor at a time; what one has sent or got, no other sees."""

    def __init__(self, models: Mapping[str, Path], device: torch.device, limits: Limits, root: Path) -> None:
        self.models, self.device, self.limits, self.root = models, device, limits, root
        self.workers: dict[str, Worker] = {}
        self.visits: OrderedDict[str, Visit] = OrderedDict()  # by visitor, the last one to come is the last
        self.served = 0
        self.lock = threading.Lock()

    def worker(self, name: str) -> Worker:
        """A model at work, loaded when first asked for. Raises InputError for a name that is none's."""
        if name not in self.models:
            raise InputError(f"{name}: no such model here")
        if name not in self.workers:
            model, _ = load_model(self.models[name])
            assert isinstance(model, PCSR)
            self.workers[name] = Worker(model, self.device, LARGE)
        return self.workers[name]

    def least_budget(self, name: str, scale: float) -> float:
        return least_budget(self.worker(name).account, scale)

    def floor(self, scale: float) -> float:
        """A budget that no model can go below at a scale up to this one, in hundredths."""
        return math.floor(100 * min(self.least_budget(name, scale) for name in self.models)) / 100

    def answer(self, visitor: str, ask: Ask, knobs: Knobs) -> Iterator[Answer]:
        """Pictures and numbers at once, then SSIM too if there is something to compare with.

        Raises InputError for files that cannot be used, and beyond the limits.
        """
        with self.lock:
            visit = self.visit(visitor, ask)
            source = visit.source
            assert source is not None
            setting = setting_of(knobs.rule, knobs.k, knobs.budget, source.worker.account, ask.scale)
            restored = source.restore(setting, knobs.refinement)
            self.served += 1
            folder = visit.new_folder(self.served)
            stem = f"{ask.picture.stem}_x{ask.scale:g}_{setting}"
            before = visit.folder / f"before_{knobs.enlarged}.png"
            if not before.exists():
                save_image(before, source.like(to_pixels(source.enlarged(knobs.enlarged), source.image.bits)))
            after, overlay = folder / f"{stem}.png", folder / f"{stem}_assignment.jpg"
            save_image(after, source.like(restored.pixels))
            assert restored.assignment is not None
            coloured = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers)
            write_image(overlay, coloured)
        answer = Answer(before, after, overlay, source.numbers(restored, with_ssim=False), source.note)
        yield answer
        if source.hr is not None:
            yield replace(answer, numbers=source.numbers(restored, with_ssim=True))

    def visit(self, visitor: str, ask: Ask) -> Visit:
        """The visitor's picture, encoded; in its favour older ones are forgotten, and encodings given up."""
        if visitor in self.visits and self.visits[visitor].ask != ask:
            self.drop(visitor)
        if visitor not in self.visits:
            self.visits[visitor] = Visit(ask, self.root)
        self.visits.move_to_end(visitor)
        visit = self.visits[visitor]
        if visit.source is None:
            try:
                visit.source = Source(ask, self.worker(ask.model), self.limits)
            except InputError:
                self.drop(visitor)
                raise
        while len(self.visits) > VISITORS:
            self.drop(next(iter(self.visits)))
        for other in self.visits.values():
            held = sum(one.source.nbytes for one in self.visits.values() if one.source is not None)
            if held > ENCODINGS * self.limits.held and other is not visit:
                other.source = None
        return visit

    def forget(self, visitor: str) -> None:
        """The visitor has gone, or has taken the picture away."""
        with self.lock:
            self.drop(visitor)

    def drop(self, visitor: str) -> None:
        visit = self.visits.pop(visitor, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
