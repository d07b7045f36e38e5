"""Make LR images: python datasets/scripts/generate_mod_LR_bic.py --input HR --output LR_x4 --scale 4"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.options import add_degrade_option, asked_degradation, folders_parser
from datasets.prepare import generate_mod_lr_bic
from utils.cli import run


def main() -> None:
    about = "Cut every HR image at the right and bottom to fit the scale, and make its 8-bit LR image by antialiased "
    about += "bicubic."
    parser = folders_parser(about, "HR images", "where the LR images go, PNG under the names of the HR images")
    parser.add_argument("--mod_output", type=Path, metavar="DIR", help="where cut HR images go, if they are wanted")
    parser.add_argument("--scale", type=float, default=4.0, help="HR/LR, any number of at least 1, such as 2.5")
    about = "do as MATLAB's imresize on uint8: round after each of the two passes"
    parser.add_argument("--matlab_uint8", action="store_true", help=about)
    add_degrade_option(parser)
    args = parser.parse_args()
    how = (args.scale, args.matlab_uint8, args.workers, asked_degradation(args.degrade))
    generate_mod_lr_bic(args.input, args.output, args.mod_output, *how)


if __name__ == "__main__":
    run(main)
