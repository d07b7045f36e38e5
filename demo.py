"""One image in, pictures and a report out.

python demo.py                                 simulates x4 on a picture that ships with scikit-image
python demo.py --img_path hr.png               the same on your HR image: it is shrunk, then restored and measured
python demo.py --img_path photo.jpg --upscale  enlarges the image itself
"""

import argparse
from pathlib import Path

import pandas as pd
import skimage.data
import torch
import torch.nn.functional as F

from datasets.folder import mod_crop
from models.blocks import Backbone
from models.pcsr import PCSR
from utils.checkpoint import WEIGHTS, load_model
from utils.device import pick_device
from utils.enlarge import enlarge
from utils.errors import InputError, Parser, run
from utils.evaluate import Protocol, measure
from utils.files import write_atomic
from utils.image import Image, read_image, save_image, to_pixels, to_tensor, write_image
from utils.options import (
    add_decision_options,
    add_model_options,
    checked_scale,
    chosen_model,
    large,
    refinement,
    settings,
)
from utils.report import format_table, image_table, summarise, summary_json
from utils.resize import downscale
from utils.restore import Large, Restore, Restored, original_restorer
from utils.restore_pcsr import pcsr_restorer
from utils.runs import SAVE
from utils.visual import OPACITY, busiest, colour_assignment, panel

CONFIG = "configs/carn-pcsr-phase1.yaml"


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img_path", help="the image (default: scikit-image's astronaut)")
    parser.add_argument("--upscale", action="store_true", help="take the image itself as LR and write it enlarged")
    parser.add_argument("--scale", type=float, default=4.0, help="up-scaling factor of 1 or more (default: 4)")
    parser.add_argument("--out_dir", default="results/demo", help="where the pictures go (default: results/demo)")
    parser.add_argument(
        "--opacity", type=float, default=OPACITY, help=f"of the assignment's colours (default: {OPACITY})"
    )
    add_decision_options(parser)
    add_model_options(parser)
    args = parser.parse_args()
    if args.config is None and args.model is None:
        args.config = CONFIG
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity {args.opacity:g}: must lie between 0 and 1")
    return args


def load_image(path: str | None) -> tuple[Image, Path]:
    """The image asked for, or the default picture."""
    if path is None:
        return Image(skimage.data.astronaut(), None, gray=False), Path("astronaut.png")
    return read_image(path), Path(path)


def suffix(restored: Restored, results: list[Restored]) -> str:
    """Tells the files of several settings apart."""
    return f"_{restored.setting}" if len(results) > 1 else ""


def upscale(image: Image, path: Path, restore: Restore, scale: float, folder: Path, opacity: float) -> list[Restored]:
    """Enlarge the image itself."""
    results = enlarge(image, restore, scale)
    for enlarged, restored in results:
        assert restored.assignment is not None
        (height, width), (h, w) = restored.assignment.shape, image.pixels.shape[:2]
        name = f"{path.stem}_x{scale:g}{suffix(restored, [each.restored for each in results])}"
        save_image(folder / f"{name}.png", enlarged)
        overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers, opacity)
        write_image(folder / f"{name}_assignment.png", overlay)
        print(f"{w}x{h} -> {width}x{height}: {folder / name}.png")
    return [each.restored for each in results]


def original_results(backbone: str, lr: torch.Tensor, scale: float, device: torch.device, how: Large) -> list[Restored]:
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
    return original_restorer(model, device, how)(lr, scale)


def simulate(
    image: Image,
    path: Path,
    restore: Restore,
    backbone: str,
    scale: float,
    device: torch.device,
    how: Large,
    folder: Path,
    opacity: float,
) -> pd.DataFrame:
    """Shrink the image, restore it with the original model and PCSR, and compare; returns the summary."""
    hr = mod_crop(to_tensor(image.pixels), scale, path)
    lr = downscale(hr, scale, dtype=torch.float64).float()
    originals, results = original_results(backbone, lr, scale, device, how), restore(lr, scale)
    write_image(folder / "hr.png", to_pixels(hr))
    write_image(folder / "lr.png", to_pixels(lr))
    enlarged = F.interpolate(lr, size=hr.shape[2:], mode="nearest")  # only to be seen beside the others
    row = [("HR", to_pixels(hr)), ("LR", to_pixels(enlarged))]
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


def main() -> None:
    args = parse_options()
    scale = checked_scale(args.scale)
    device = pick_device(args.device)
    model, spec, _ = chosen_model(args)
    if not isinstance(model, PCSR):
        raise InputError(f"{args.model or args.config}: an original model; the demo needs a PCSR model")
    restore = pcsr_restorer(model, settings(args), refinement(args), device, large(args))
    image, path = load_image(args.img_path)
    folder = Path(args.out_dir)
    if args.upscale:
        results = upscale(image, path, restore, scale, folder, args.opacity)
        table = image_table(
            [measure(path.stem, restored, None, Protocol(scale)) for restored in results], path.stem, scale
        )
        summary = summarise(table)
    else:
        folder /= path.stem
        summary = simulate(image, path, restore, spec.backbone, scale, device, large(args), folder, args.opacity)
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


if __name__ == "__main__":
    run(main)
