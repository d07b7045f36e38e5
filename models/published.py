"""Files of torch.save: the paper's published checkpoints, those of other training programs, and bare state dicts.

Such a file says little about its model, but the names and shapes of its tensors do: names are brought to those of this
project, and the spec is read off the shapes.
"""

import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError

# Under one key or several, each in the other, training programs put the weights in a file. Of several sets of weights
# the first of these is taken: an average, then what is named so
PREFERRED = (r"(.*_)?ema(_.*)?", "model", "params", "state_dict", "sd", "generator")
DEPTH = 4  # keys in each other at which weights are looked for
SUFFIXES = (".pth", ".pt", ".ckpt")  # of torch.save; the last is that of PyTorch Lightning
ARGUMENTS = ("args", "hyper_parameters")  # where the paper's repository and PyTorch Lightning say how a model was made
EXPECTED = "expected is FSRCNN, CARN or SRResNet, alone or as encoder of PCSR"

# Names in the files -> names here; what is done twice does no harm, so names of this project stay
REMAP: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^((module|_orig_mod)\.)+", ""),  # DataParallel, torch.compile
    # CARN
    (r"^(encoder\.)?(entry|b\d|c\d)\b", r"encoder.\2"),
    (r"^encoder\.b(\d)\.b1\.body\.", lambda m: f"encoder.blocks.{int(m[1]) - 1}.unit.body."),
    (r"^encoder\.b(\d)\.c(\d)\.", lambda m: f"encoder.blocks.{int(m[1]) - 1}.fuse.{int(m[2]) - 1}."),
    (r"^encoder\.c(\d)\.", lambda m: f"encoder.fuse.{int(m[1]) - 1}."),
    (r"^upsample\.up\.body\.", "tail.shuffle."),
    (r"^exit\.", "tail.exit."),
    # SRResNet; `body` and `conv_hr` in BasicSR
    (r"^(encoder\.)?conv_first\.", "encoder.entry."),
    (r"^(encoder\.)?(recon_trunk|body)\.(\d+)\.(conv\d)\.", r"encoder.blocks.\3.\4."),
    (r"^upconv(\d)\.", lambda m: f"tail.shuffle.{3 * int(m[1]) - 3}."),
    (r"^(HRconv|conv_hr)\.", "tail.last."),
    (r"^conv_last\.", "tail.exit."),
    # FSRCNN
    (r"^(encoder\.)?head_conv\.(\d)\.", r"encoder.layers.\2."),
    (r"^(encoder\.)?body_conv\.0\.(\d)\.", lambda m: f"encoder.layers.{2 + int(m[2])}."),
    (r"^(encoder\.)?body_conv\.6\.(\d)\.", lambda m: f"encoder.layers.{9 + int(m[2])}."),
    (r"^(encoder\.)?body_conv\.(\d)\.", lambda m: f"encoder.layers.{3 + int(m[2])}."),
    (r"^tail_conv\.", "tail.deconv."),
    # PCSR
    (r"^light_sampler\.imnet\.", "upsamplers.0."),
    (r"^heavy_sampler\.imnet\.", "upsamplers.1."),
    (r"^classifier\.imnet\.", "classifier."),
]
# The tensor that only this backbone has -> the backbone
MARKS = {
    "encoder.blocks.0.unit.body.0.weight": "carn",
    "encoder.blocks.0.conv1.weight": "srresnet",
    "encoder.layers.2.weight": "fsrcnn",
}
# Other networks -> names of tensors that tell them; the first that fits counts
FOREIGN = {
    "RRDBNet (ESRGAN)": r"(RRDB_trunk|\.rdb1\.|\.RDB1\.)",
    "RCAN": r"(\.conv_du\.|\.rcab\.)",
    "HAT": r"overlap_attn",
    "SwinIR": r"relative_position_bias_table",
    "EDSR": r"(^body\.\d+\.body\.|^conv_after_body\.)",
    "SRVGGNetCompact (Real-ESRGAN)": r"^body\.1\.weight$",
    "ClassSR": r"CondNet",
    "CARN of its authors": r"^(sub_mean|upsample\.up\d)\.",
    "LIIF": r"^imnet\.layers\.",
}


class Described(NamedTuple):
    """Weights under this project's names, and the model that they are of."""

    spec: OriginalSpec | PCSRSpec
    weights: dict[str, Tensor]


def read_published(path: Path) -> Described:
    """Raises InputError for a file that is not of one of this project's networks, OSError if it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise
        raise InputError("a TorchScript program; save the state dict of its network with torch.save") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        what = f"holds Python objects ({refused[1]:.60}), which may be unsafe to load"
        raise InputError(f"{what}; save its state dict alone") from None
    named, args = unwrap(content)
    named = without_prefix(named)
    weights = {remap(key): tensor for key, tensor in named.items()}
    if not any(key.startswith("upsamplers.0.") for key in weights):  # phase 0 has the heavy upsampler alone
        weights = {re.sub(r"^upsamplers\.1\.", "upsamplers.0.", key): tensor for key, tensor in weights.items()}
    refuse_foreign(named, weights)
    return Described(infer(weights, args), weights)


def unwrap(content: object) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The state dict in a file, and what the file says about the model. Raises InputError if there is none."""
    args: object = {}
    while isinstance(content, dict) and not is_state_dict(content):
        keys = [key for key, value in content.items() if holds_weights(value)]
        if not keys:
            found = f", only {', '.join(f'{key!s:.20}' for key in list(content)[:4])}" if content else ""
            raise InputError(f"holds no state dict (names and their tensors){found}; {EXPECTED}")
        args = next((content[name] for name in ARGUMENTS if name in content), args)
        content = content[preferred(keys)]
    if not isinstance(content, dict):
        raise InputError(f"holds no state dict (names and their tensors); {EXPECTED}")
    return content, args if isinstance(args, dict) else {}


def preferred(names: Sequence[str]) -> str:
    """Which of several sets of weights to take. Raises InputError if no name tells."""
    named = [name for pattern in PREFERRED for name in names if re.fullmatch(pattern, name)]
    if not named and len(names) > 1:
        found = ", ".join(f"{name:.20}" for name in names[:4])
        raise InputError(f"holds several sets of weights ({found}); save the state dict of one alone")
    return (named or names)[0]


def holds_weights(value: object, depth: int = DEPTH) -> bool:
    """Whether a value is a state dict, or has one under its names; an optimizer has numbers for names."""
    if not depth or not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    return is_state_dict(value) or any(holds_weights(each, depth - 1) for each in value.values())


def is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items())


def without_prefix(named: Mapping[str, Tensor], depth: int = DEPTH) -> Mapping[str, Tensor]:
    """Without what the names of a network of this project begin with, such as `model.`, and without what stands beside
    it under other names, such as the network of a loss. All of them if there is no such network."""
    if is_known(named) or not depth:
        return named
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        head, dot, rest = name.partition(".")
        groups.setdefault(head if dot else "", {})[rest] = tensor
    inner = {head: without_prefix(group, depth - 1) for head, group in groups.items() if head}
    networks = [head for head, group in inner.items() if is_known(group)]
    return inner[preferred(networks)] if networks else named


def is_known(named: Mapping[str, Tensor]) -> bool:
    return any(remap(name) in MARKS for name in named)


def remap(key: str) -> str:
    for pattern, replacement in REMAP:
        key = re.sub(pattern, replacement, key)
    return key


def refuse_foreign(named: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises InputError for the weights of a network that is not one of this project's."""
    names = [re.sub(REMAP[0][0], "", name) for name in named]
    for network, pattern in FOREIGN.items():
        if any(re.search(pattern, name) for name in names):
            raise InputError(f"looks like {network} by its keys; {EXPECTED}")
    if not MARKS.keys() & weights.keys():
        first = ", ".join(f"{name:.40}" for name in names[:2])
        raise InputError(f"another network, whose first keys are {first}; {EXPECTED}")


def infer(weights: Mapping[str, Tensor], args: Mapping[str, Any]) -> OriginalSpec | PCSRSpec:
    """The model that the shapes tell, and where they do not tell the scale, `args`.

    Raises InputError if the scale is not known, or for an encoder alone.
    """
    backbone = next(name for mark, name in MARKS.items() if mark in weights)
    first = "encoder.layers.0.weight" if backbone == "fsrcnn" else "encoder.entry.weight"
    if first not in weights:
        raise InputError(f"looks like {backbone}, but {first} is missing")
    width = len(weights[first])
    count = len({key.split(".")[1] for key in weights if key.startswith("upsamplers.")})
    if count:
        upsamplers = tuple(hidden(weights, f"upsamplers.{j}.") for j in range(count))
        classifier = hidden(weights, "classifier.") if "classifier.layers.0.weight" in weights else None
        return PCSRSpec(kind="pcsr", backbone=backbone, width=width, upsamplers=upsamplers, classifier=classifier)
    if not any(key.startswith("tail.") for key in weights):
        raise InputError(f"an encoder ({backbone}) alone; {EXPECTED}")
    scale = shuffled(weights, width) if "tail.shuffle.0.weight" in weights else args.get("upscale", args.get("scale"))
    if not isinstance(scale, int):
        remedy = "save {'args': {'upscale': 4}, 'sd': the state dict}"
        raise InputError(f"an original {backbone} whose scale neither shapes nor arguments tell; {remedy}")
    return OriginalSpec(kind="original", backbone=backbone, width=width, scale=scale)


def hidden(weights: Mapping[str, Tensor], mlp: str) -> tuple[int, ...]:
    """The hidden widths of an MLP: what every Linear but the last puts out."""
    found = [re.fullmatch(re.escape(mlp) + r"layers\.(\d+)\.weight", key) for key in weights]
    numbers = sorted(int(match[1]) for match in found if match)
    return tuple(len(weights[f"{mlp}layers.{number}.weight"]) for number in numbers[:-1])


def shuffled(weights: Mapping[str, Tensor], width: int) -> int:
    """The scale of a pixel-shuffle tail: one step by the root of its channels, or two by 2 for x4."""
    return 4 if "tail.shuffle.3.weight" in weights else math.isqrt(len(weights["tail.shuffle.0.weight"]) // width)
