"""Shrink training images: python datasets/scripts/data_augmentation.py --input DIV2K_train_HR --output DIV2K_scales"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.options import folders_parser
from datasets.prepare import data_augmentation
from utils.cli import run


def main() -> None:
    about = "Shrink every image to several scales by antialiased bicubic, as NAME_s0.9.png."
    parser = folders_parser(about, "images of 8 or 16 bits, such as DIV2K train HR", "where the PNG files go")
    scales = [1, 0.9, 0.8, 0.7, 0.6]
    parser.add_argument("--scales", type=float, nargs="+", default=scales, metavar="S", help="factors in (0,1]")
    parser.add_argument("--min_size", type=int, default=1, metavar="PX", help="leave out smaller copies")
    args = parser.parse_args()
    data_augmentation(args.input, args.output, args.scales, args.min_size, args.workers)


if __name__ == "__main__":
    run(main)
