"""A trained model as an ONNX file for other programs: LR of any size and k in, SR and assignment out.

python export.py --model save/carn-pcsr-phase1 --onnx out.onnx
python export.py --model save/carn-pcsr-phase1 --onnx out.onnx --scale 2.5 --no_refinement
python export.py --model save/carn-x4 --onnx original.onnx           an original model: no k, no assignment

    k = numpy.array(0, numpy.float32)
    sr, assignment = onnxruntime.InferenceSession("out.onnx").run(None, {"lr": lr, "k": k})   lr (1,3,h,w) in [0,1]

Each upsampler runs on the pixels assigned to it. Scale and refinement are fixed in the file, whose metadata describe
its inputs and outputs. If onnxruntime is installed, its results are compared with torch's before the file is written.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import skimage.data
import torch
from torch import Tensor, nn

from inference.onnx import INSTALL, check_target, decides, start, to_onnx, with_properties
from inference.onnx_check import largest_difference
from inference.restore import possible_scale
from models.checkpoint import load_model, of_torch
from models.setting import Setting
from utils.cli import Parser, plain_text, run
from utils.errors import InputError
from utils.files import write_atomic
from utils.image import to_tensor
from utils.resize import downscale

LARGEST = 64  # scale: beyond it, the pictures that are compared with torch would be of a few LR pixels
MOST_COMPARED = 1 << 20  # HR pixels of such a picture: torch takes nearly a kilobyte for each


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder under save/, a .safetensors, a .pth, .pt or .ckpt")
    parser.add_argument("--onnx", required=True, type=Path, help="file to write; replaces only files of export.py")
    about = "up-scaling factor of 1 or more (default: 4, or the only one that an original model has)"
    parser.add_argument("--scale", type=float, help=about)
    parser.add_argument("--no_refinement", action="store_true", help="do not smooth light pixels beside heavy ones")
    about = (
        "licence of the weights, noted in the file (default: MIT, as this project; of .pth, .pt or .ckpt: not stated)"
    )
    parser.add_argument("--licence", type=plain_text, help=about)
    return parser.parse_args()


def pictures(scale: float) -> list[Tensor]:
    """A picture of up to 128x128 pixels, a window of it with other sides, and a single pixel, (1,3,h,w)."""
    side = min(128, int(MOST_COMPARED**0.5 / scale))
    lr = downscale(to_tensor(skimage.data.astronaut()), 4)[..., :side, :side]
    return [part.contiguous() for part in (lr, lr[..., 3 : side // 2, side // 3 + 1 :], lr[..., :1, :1])]


@torch.no_grad()
def takes(encoder: nn.Module, lr: Tensor) -> bool:
    """Whether an encoder works on images of this size; mirrored borders, for example, need several pixels."""
    try:
        encoder(lr)
    except Exception:  # whatever a network may raise
        return False
    return True


def main() -> None:
    args = parse_options()
    check_target(args.onnx)
    model, spec = load_model(args.model)
    if args.no_refinement and not decides(model):
        raise InputError("--no_refinement: goes with a PCSR model that has a classifier; leave it out")
    setting = Setting(refinement=not args.no_refinement, scale=possible_scale(model, args.scale))
    if setting.scale > LARGEST:
        raise InputError(f"--scale {setting.scale:g}: must be at most {LARGEST}, for the comparison with torch")
    licence = args.licence or ("not stated" if of_torch(args.model) else "MIT")
    exported = with_properties(to_onnx(model, setting), model, spec, setting, licence)
    verdict = f"not compared with torch, as onnxruntime is not installed ({INSTALL})"
    if find_spec("onnxruntime"):
        images = [lr for lr in pictures(setting.scale) if takes(model.encoder, lr)]
        difference = largest_difference(start(exported), model, setting, images)
        sizes = ", ".join(f"{lr.shape[3]}x{lr.shape[2]}" for lr in images)
        verdict = f"ONNX Runtime differs from torch by {difference:.1e} at most (LR of {sizes})"
    write_atomic(args.onnx, exported)
    print(f"{args.onnx}: {len(exported) / 1e6:.2f} MB, x{setting.scale:g}, {verdict}")


if __name__ == "__main__":
    run(main)
