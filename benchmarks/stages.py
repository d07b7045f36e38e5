"""CPU seconds of one picture from the command to the file on disk, by stage.

python benchmarks/stages.py                               scikit-image's astronaut, x4
python benchmarks/stages.py --img_path photo.jpg --model save/softgate-pcsr-phase1

Every round is a process of its own, which does what `demo.py --upscale` does; medians. The seconds are those of all
threads together, and other work on the machine does not count.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

from demo import ASTRONAUT
from inference.options import add_precision_option
from inference.picture import restore_image
from inference.restorers import pcsr_restorer
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Setting
from utils.cli import Parser, count, run
from utils.decode import read_image
from utils.device import pick_device
from utils.encode import encode
from utils.errors import InputError
from utils.files import write_atomic

# what Python's start and the imports have taken; this file imports nothing that demo.py does not
IMPORTED = time.process_time()


def stages(args: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of each stage in this process, which has done nothing else before."""
    seconds, last = {"start and imports": IMPORTED}, time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        before, last = last, time.process_time()
        seconds[name] = last - before

    model, _ = load_model(args.model)
    if not isinstance(model, PCSR):
        raise InputError(f"{args.model}: give a PCSR model")
    lap("weights")
    restore = pcsr_restorer(model, [Setting("k", precision=args.precision)], pick_device("cpu"))
    lap("kernels")
    image = read_image(args.img_path)
    lap("decode")
    ((made, _),) = restore_image(image, restore)
    lap("network")
    content = encode("PNG", made.pixels, made, None)
    lap("encode")
    with TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "made.png", content, durable=False)
        lap("write")
    return seconds


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img_path", type=Path, default=ASTRONAUT, help="LR image (default: astronaut)")
    parser.add_argument("--model", type=Path, default=Path("save/carn-pcsr-phase1"), help="PCSR weights")
    parser.add_argument("--rounds", type=count, default=5, help="processes (default: 5)")
    parser.add_argument("--once", action="store_true", help="measure this process and print one line of JSON")
    add_precision_option(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_options()
    if args.once:
        print(json.dumps(stages(args)))
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--once"]
    rounds = []
    for _ in range(args.rounds):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise InputError(done.stderr.strip().removeprefix("error: "))
        rounds.append(json.loads(done.stdout))
    medians = {name: median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in {**medians, "in all": sum(medians.values())}.items():
        print(f"{name:17} {seconds:6.2f} s")


if __name__ == "__main__":
    run(main)
