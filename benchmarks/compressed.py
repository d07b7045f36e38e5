"""A picture of what the weights for photographs change: an image is shrunk, stored as JPEG, and enlarged again.

python benchmarks/compressed.py --img_path hr.png --quality 75 --out compressed.png

It shows bicubic interpolation, the weights for clean images, those for photographs, and HR, each with its PSNR. The
lower row magnifies the place where the two weights differ most.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import numpy as np

from benchmarks.common import OUT_DIR, SCALE, benchmark_parser
from datasets.degrade import compressed
from datasets.folder import mod_crop
from demo import ASTRONAUT
from evaluation.metrics import psnr
from inference.automatic import CLEAN, PHOTOS
from inference.restorers import bicubic_restorer
from inference.upscaler import Upscaler
from inference.visual import busiest, panel
from models.checkpoint import SAVE
from utils.cli import run
from utils.decode import read_image
from utils.files import output_file, write_atomic
from utils.image import to_pixels, to_tensor
from utils.resize import downscale

QUALITIES = range(1, 101)


def quality(text: str) -> int:
    """The type of --quality."""
    if int(text) not in QUALITIES:
        raise argparse.ArgumentTypeError(f"{text}: must be from 1 to 100")
    return int(text)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--img_path", type=Path, default=ASTRONAUT, help="HR image (default: astronaut)")
    parser.add_argument("--quality", type=quality, default=75, help="JPEG quality, 1 .. 100 (default: 75)")
    parser.add_argument("--clean", type=Path, default=SAVE / CLEAN, help="weights for clean images")
    parser.add_argument("--photo", type=Path, default=SAVE / PHOTOS, help="weights for photographs")
    parser.add_argument("--out", type=output_file(".png"), default=OUT_DIR / "compressed.png")
    args = parser.parse_args()
    hr = mod_crop(to_tensor(read_image(args.img_path).pixels), SCALE, args.img_path)
    lr = compressed(to_pixels(downscale(hr, SCALE)), args.quality)
    (bicubic,) = bicubic_restorer(SCALE)(to_tensor(lr))
    clean, photo = (Upscaler.load(path, args.device).upscale(lr)[0] for path in (args.clean, args.photo))
    made = {"bicubic": bicubic.pixels, "weights for clean images": clean, "weights for photographs": photo}
    row = [(f"{name}\n{psnr(to_tensor(sr), hr, SCALE):.2f} dB", sr) for name, sr in made.items()]
    differs = np.abs(clean.astype(np.float32) - photo).mean(axis=2)
    about = f"LR stored as JPEG {args.quality}; below: where the two weights differ most"
    write_atomic(args.out, panel([*row, ("HR", to_pixels(hr))], busiest(differs), about))
    print(", ".join(caption.replace("\n", " ") for caption, _ in row))
    print(f"written to {args.out}")


if __name__ == "__main__":
    run(main)
