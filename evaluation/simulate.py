"""One HR image shrunk, restored and compared: pictures and a report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.folder import mod_crop
from evaluation.evaluate import MeasuringProtocol, measure, noise_like
from evaluation.record import RECORD
from evaluation.report import image_table, summarise
from evaluation.tables import write_csv
from inference.options import ACCEPT_DAMAGED
from inference.picture import notes_on_colours
from inference.restore import Restore
from inference.restorers import bicubic_restorer
from inference.visual import busiest, colour_assignment, panel
from models.checkpoint import SAVE, WEIGHTS, found, load_model
from models.original import OriginalModel
from utils.cli import say, tell
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.files import write_atomic
from utils.image import Array, to_pixels, to_tensor
from utils.resize import downscale

COMPARISON, REPORT = "comparison.png", "report.csv"
FIRST_CALL = 128  # LR pixels on a side of a first, untimed call: enough for set-up and memory, as seconds are shown


def original_beside(backbone: str, scale: float, path: str | None = None) -> OriginalModel | None:
    """The original model at a path, or else that of the backbone: None if it has no weights or another scale.

    A line says which model is taken. Raises InputError if the path holds another kind of model or another scale.
    """
    folder = found(path) if path else found(SAVE / f"{backbone}-x4" / WEIGHTS).parent
    if path is None and not (folder / WEIGHTS).exists():
        say(f"left out the original model: no weights in {folder}, and no other model is named")
        return None
    model, _ = load_model(folder)
    if not isinstance(model, OriginalModel):
        raise InputError(f"{folder}: not an original model")
    if model.scale != scale:
        if path is not None:
            raise InputError(f"{path}: an original model of x{model.scale} only; use that scale or another model")
        say(f"left out the original model: {folder} only works at x{model.scale}")
        return None
    say(f"original model: {folder}")
    return model


def simulated_files(settings: Sequence[str]) -> list[str]:
    """The names of all files that a simulation of these settings may write."""
    endings = ["", *(f"_{setting}" for setting in settings)]
    decided = [name + ending for name in ("pcsr", "assignment") for ending in endings]
    return [COMPARISON, REPORT, RECORD, *(f"{name}.png" for name in ("hr", "lr", "bicubic", "original", *decided))]


def simulate(
    path: Path, scale: float, restores: Sequence[Restore], folder: Path, opacity: float, accept_damaged: bool = False
) -> pd.DataFrame:
    """Shrink an HR image, restore it with each restorer, write pictures and a report, and return the summary.

    Bicubic comes first. Each setting has a panel, and a row below all panels magnifies the place that place_shown
    chooses. `opacity` is that of the assignment's colours, in [0,1]. A line on stderr reports what is left out of the
    file. Raises InputError for an image that cannot be read or is too small.
    """
    image = read_image(path, accept_damaged, ACCEPT_DAMAGED)
    if notes := notes_on_colours(image):
        tell(f"note: {path}: {'; '.join(notes)}")
    hr = mod_crop(to_tensor(image.pixels), scale, path)
    lr = downscale(hr, scale)
    results = []
    for restore in (bicubic_restorer(scale), *restores):
        restore(noise_like(lr[..., :FIRST_CALL, :FIRST_CALL]))
        results += restore(lr)
    table = image_table([measure(path.stem, each, hr, MeasuringProtocol(scale)) for each in results], path.stem, scale)
    files = {"hr": to_pixels(hr), "lr": to_pixels(lr)}
    row: list[tuple[str, Array]] = []
    assignments = [each.assignment for each in results if each.assignment is not None]
    for restored, psnr in zip(results, table["psnr"], strict=True):
        facts = f"{psnr:.2f} dB, {restored.seconds:.2f} s"
        if restored.assignment is None:
            files[restored.setting] = restored.pixels
            name = "original model" if restored.setting == "original" else restored.setting
            row.append((f"{name}\n{facts}", restored.pixels))
            continue
        overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, opacity)
        ending = f"_{restored.setting}" if len(assignments) > 1 else ""
        files |= {f"pcsr{ending}": restored.pixels, f"assignment{ending}": overlay}
        row.append((f"PCSR, {restored.setting}\n{facts}", restored.pixels))
        row.append((f"assignment\n{100 * restored.heavy_share:.0f} % heavy (red)", overlay))
    row.append(("HR", files["hr"]))
    for name, pixels in files.items():
        write_image(folder / f"{name}.png", pixels)
    write_atomic(folder / COMPARISON, panel(row, *place_shown(assignments, results[-1].pixels, files["hr"])))
    summary = summarise(table)
    write_csv(folder / REPORT, summary)
    return summary


def place_shown(assignments: Sequence[Array], sr: Array, hr: Array) -> tuple[tuple[slice, slice], str]:
    """The window that the lower row of the comparison magnifies, and the rule that chose it, for people.

    The settings' order does not matter, unless every assignment is constant; then `sr`, of the last one, decides.
    """
    load = np.sum([each.astype(np.int64) for each in assignments], axis=0) if assignments else np.zeros(1)
    if np.ptp(load):
        several = ", all settings together" if len(assignments) > 1 else ""
        return busiest(load), f"below: the framed place, magnified. It is the one with the most heavy pixels{several}."
    errors = np.abs(sr.astype(np.int16) - hr).sum(axis=2)
    return busiest(errors), "below: the framed place, magnified. It is the one where SR differs from HR the most."
