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
from inference.restore import Restore, Restored, original_restorer
from inference.tiles import TilePlan
from inference.visual import busiest, colour_assignment, panel
from models.blocks import Backbone
from models.checkpoint import SAVE, WEIGHTS, load_model
from utils.encode import write_image
from utils.errors import InputError
from utils.files import write_atomic
from utils.image import Image, to_pixels, to_tensor
from utils.resize import downscale


def suffix(restored: Restored, results: list[Restored]) -> str:
    """Tells the files of several settings apart."""
    return f"_{restored.setting}" if len(results) > 1 else ""


def shipped_original(backbone: str, scale: float, device: torch.device, how: TilePlan) -> list[Restore]:
    """What restores with the backbone's original model, if its weights are there and do this scale."""
    folder = SAVE / f"{backbone}-x4"
    if not (folder / WEIGHTS).exists():
        print(f"left out the original model: no weights in {folder}")
        return []
    model, _ = load_model(folder)
    if not isinstance(model, Backbone):
        raise InputError(f"{folder}: not an original model")
    if model.scale != scale:
        print(f"left out the original model: {folder} does x{model.scale} only")
        return []
    print(f"original model: {folder}")
    return [original_restorer(model, device, how)]


def simulate(
    image: Image, path: Path, restorers: Sequence[Restore], scale: float, folder: Path, opacity: float
) -> pd.DataFrame:
    """Shrink the image, restore it with each of several models, and compare; returns the summary."""
    hr = mod_crop(to_tensor(image.pixels), scale, path)
    lr = downscale(hr, scale)
    results = [restored for restore in restorers for restored in restore(lr)]
    decided = [restored for restored in results if restored.assignment is not None]
    write_image(folder / "hr.png", to_pixels(hr))
    write_image(folder / "lr.png", to_pixels(lr))
    shown = F.interpolate(lr, size=hr.shape[2:], mode="nearest")  # LR as large as the others
    row = [("HR", to_pixels(hr)), ("LR", to_pixels(shown))]
    table = image_table([measure(path.stem, r, hr, Protocol(scale)) for r in results], path.stem, scale)
    kinds = ["original" if r.assignment is None else f"PCSR, {r.setting}" for r in results]
    captions = [f"{kind}: {line.psnr:.2f} dB" for kind, line in zip(kinds, table.itertuples(), strict=True)]
    for restored, caption in zip(results, captions, strict=True):
        name = "original" if restored.assignment is None else f"pcsr{suffix(restored, decided)}"
        write_image(folder / f"{name}.png", restored.pixels)
        row.append((caption, restored.pixels))
        if restored.assignment is not None:
            overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, opacity)
            write_image(folder / f"assignment{suffix(restored, decided)}.png", overlay)
            row.append((f"{100 * restored.heavy_share:.0f} % heavy (red)", overlay))
    load = decided[0].assignment if decided else None
    if load is None:  # what is hardest for the model
        load = np.abs(results[0].pixels.astype(np.int16) - to_pixels(hr)).sum(axis=2)
    write_atomic(folder / "comparison.png", panel(row, busiest(load)))
    summary = summarise(table)
    write_atomic(folder / "report.csv", summary.to_csv(index=False).encode())
    return summary
