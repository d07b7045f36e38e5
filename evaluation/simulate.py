"""One HR image shrunk, restored and compared: pictures and a report."""

from pathlib import Path

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


def original_results(
    backbone: str, lr: torch.Tensor, scale: float, device: torch.device, how: TilePlan
) -> list[Restored]:
    """What the backbone's original model makes of the image, if its weights are there and do this scale."""
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
    return original_restorer(model, device, how)(lr)


def simulate(
    image: Image,
    path: Path,
    restore: Restore,
    backbone: str,
    scale: float,
    device: torch.device,
    how: TilePlan,
    folder: Path,
    opacity: float,
) -> pd.DataFrame:
    """Shrink the image, restore it with the original model and PCSR, and compare; returns the summary."""
    hr = mod_crop(to_tensor(image.pixels), scale, path)
    lr = downscale(hr, scale)
    originals, results = original_results(backbone, lr, scale, device, how), restore(lr)
    write_image(folder / "hr.png", to_pixels(hr))
    write_image(folder / "lr.png", to_pixels(lr))
    shown = F.interpolate(lr, size=hr.shape[2:], mode="nearest")  # LR as large as the others
    row = [("HR", to_pixels(hr)), ("LR", to_pixels(shown))]
    table = image_table([measure(path.stem, r, hr, Protocol(scale)) for r in (*originals, *results)], path.stem, scale)
    kinds = ["original"] * len(originals) + [f"PCSR, {restored.setting}" for restored in results]
    captions = [f"{kind}: {line.psnr:.2f} dB" for kind, line in zip(kinds, table.itertuples(), strict=True)]
    for restored, caption in zip((*originals, *results), captions, strict=True):
        name = "original" if restored.assignment is None else f"pcsr{suffix(restored, results)}"
        write_image(folder / f"{name}.png", restored.pixels)
        row.append((caption, restored.pixels))
        if restored.assignment is not None:
            overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, opacity)
            write_image(folder / f"assignment{suffix(restored, results)}.png", overlay)
            row.append((f"{100 * restored.heavy_share:.0f} % heavy (red)", overlay))
    chosen = results[0].assignment
    assert chosen is not None
    write_atomic(folder / "comparison.png", panel(row, busiest(chosen)))
    summary = summarise(table)
    write_atomic(folder / "report.csv", summary.to_csv(index=False).encode())
    return summary
