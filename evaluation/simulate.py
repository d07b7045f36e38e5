"""One HR image shrunk, restored and compared: pictures and a report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from datasets.folder import mod_crop
from evaluation.evaluate import Protocol, measure
from evaluation.report import image_table, summarise
from evaluation.tables import write_csv
from inference.restore import Restore, original_restorer
from inference.tiles import TilePlan
from inference.visual import busiest, colour_assignment, panel
from models.blocks import OriginalModel
from models.checkpoint import SAVE, WEIGHTS, load_model
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.files import write_atomic
from utils.image import to_pixels, to_tensor
from utils.resize import downscale


def original_beside(backbone: str, scale: float, device: torch.device, plan: TilePlan) -> list[Restore]:
    """The backbone's original model, or nothing if it has no weights or another scale; says which.


    Raises InputError if its folder holds another kind of model.
    """
    folder = SAVE / f"{backbone}-x4"
    if not (folder / WEIGHTS).exists():
        print(f"left out the original model: no weights in {folder}")
        return []
    model, _ = load_model(folder)
    if not isinstance(model, OriginalModel):
        raise InputError(f"{folder}: not an original model")
    if model.scale != scale:
        print(f"left out the original model: {folder} does x{model.scale} only")
        return []
    print(f"original model: {folder}")
    return [original_restorer(model, device, plan)]


def simulate(path: Path, scale: float, restores: Sequence[Restore], folder: Path, opacity: float) -> pd.DataFrame:
    """Shrink an HR image, restore it in all ways, and write pictures and a report into a folder; returns the summary.

    `opacity` is that of the assignment's colours, in [0,1]. Raises InputError for an image that cannot be read or is
    too small.
    """
    hr = mod_crop(to_tensor(read_image(path).pixels), scale, path)
    lr = downscale(hr, scale)
    results = [restored for restore in restores for restored in restore(lr)]
    table = image_table([measure(path.stem, each, hr, Protocol(scale)) for each in results], path.stem, scale)
    shown = F.interpolate(lr, size=hr.shape[2:], mode="nearest")  # LR as large as the others
    row = [("HR", to_pixels(hr)), ("LR", to_pixels(shown))]
    files = {"hr": to_pixels(hr), "lr": to_pixels(lr)}
    assignments = [each.assignment for each in results if each.assignment is not None]
    for restored, psnr in zip(results, table["psnr"], strict=True):
        if restored.assignment is None:
            files["original"] = restored.pixels
            row.append((f"original: {psnr:.2f} dB", restored.pixels))
            continue
        overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, opacity)
        ending = f"_{restored.setting}" if len(assignments) > 1 else ""
        files |= {f"pcsr{ending}": restored.pixels, f"assignment{ending}": overlay}
        row.append((f"PCSR, {restored.setting}: {psnr:.2f} dB", restored.pixels))
        row.append((f"{100 * restored.heavy_share:.0f} % heavy (red)", overlay))
    for name, pixels in files.items():
        write_image(folder / f"{name}.png", pixels)
    errors = np.abs(results[0].pixels.astype(np.int16) - to_pixels(hr)).sum(axis=2)
    write_atomic(folder / "comparison.png", panel(row, busiest(assignments[0] if assignments else errors)))
    summary = summarise(table)
    write_csv(folder / "report.csv", summary)
    return summary
