"""Make Test2K, Test4K, Test8K: python datasets/scripts/make_test_sets.py --input DIV8K --output data"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, Python looks only in its folder

from datasets.prepare import TEST_SETS, folders_parser, make_test_sets
from utils.errors import run


def main() -> None:
    parser = folders_parser(
        "Make the x4 test sets from DIV8K: 1201-1300 / 4 is Test2K, 1301-1400 / 2 is Test4K, 1401-1500 is Test8K.",
        source="DIV8K images named by number, such as 1201.png or 01201.png",
        output="gets Test2K/HR, Test2K/LR and so on",
    )
    parser.add_argument("--sets", nargs="+", choices=list(TEST_SETS), default=list(TEST_SETS), help="which to make")
    args = parser.parse_args()
    make_test_sets(args.input, args.output, args.sets, args.workers)


if __name__ == "__main__":
    run(main)
