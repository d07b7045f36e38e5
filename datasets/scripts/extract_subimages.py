"""Cut training images: python datasets/scripts/extract_subimages.py --input DIV2K_scales --output DIV2K_sub"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.options import folders_parser
from datasets.prepare import extract_subimages
from utils.cli import run


def main() -> None:
    about = "Cut every image into square sub-images, NAME_s001.png and on, row by row."
    parser = folders_parser(about, "images, none smaller than a sub-image", "where the PNG files go")
    parser.add_argument("--size", type=int, default=128, help="side of a sub-image in pixels")
    parser.add_argument("--step", type=int, default=64, help="pixels from one sub-image to the next")
    about = "if more pixels than this are left over at an edge, one more sub-image ends there"
    parser.add_argument("--remainder", type=int, default=48, help=about)
    args = parser.parse_args()
    extract_subimages(args.input, args.output, args.size, args.step, args.remainder, args.workers)


if __name__ == "__main__":
    run(main)
