"""Put training crops into one file: python datasets/scripts/pack.py --input data/train --output pack.npz"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.pack import pack
from utils.cli import Parser, run
from utils.files import output_file


def main() -> None:
    parser = Parser(description="Random crops of HR training images in one file, for benchmarks/gpu.py --pack.")
    about = "HR images of 8 bits, in subfolders too; LR is made from them"
    parser.add_argument("--input", type=Path, required=True, help=about)
    parser.add_argument("--output", type=output_file(".npz"), required=True, help="the file to write, .npz")
    parser.add_argument("--size", type=int, default=192, help="side of a crop in pixels (default: 192)")
    parser.add_argument("--count", type=int, default=600, help="how many crops for training (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the random places (default: 0)")
    args = parser.parse_args()
    size = pack(args.input, args.output, args.size, args.count, args.seed)
    print(f"{args.output}: {args.count} crops of {args.size}x{args.size}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
