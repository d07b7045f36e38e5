"""Make Test2K, Test4K, Test8K: python datasets/scripts/make_test_sets.py --input DIV8K --output data"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.div8k import TEST_SETS, make_test_sets
from datasets.options import folders_parser
from utils.cli import run


def main() -> None:
    about = (
        "Make the x4 test sets from DIV8K: 1201-1300 / 4 is Test2K, 1301-1400 / 2 is Test4K, 1401-1500 is Test8K. "
        "One image is in memory at a time, which takes up to 1 GB at 8K; with --workers N, N of them."
    )
    named = "DIV8K images named by number, such as 1201.png or 01201.png"
    parser = folders_parser(about, named, "folder in which Test2K/HR, Test2K/LR and so on are made")
    parser.add_argument("--sets", nargs="+", choices=list(TEST_SETS), default=list(TEST_SETS), help="which to make")
    parser.set_defaults(workers=1)
    args = parser.parse_args()
    make_test_sets(args.input, args.output, args.sets, args.workers)


if __name__ == "__main__":
    run(main)
