"""Reads files of torch.save: the published checkpoints, those of other training programs, and plain state dicts.

Such a file describes its model only by the names and shapes of its tensors. The names are translated to those of this
project, and the spec is derived from the shapes.
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

# Training programs store the weights under a key, sometimes several levels deep. If a file has several sets of weights,
# the first of these keys is used; an average of the weights comes first
PREFERRED = (r"(.*_)?ema(_.*)?", "model", "params", "state_dict", "sd", "generator")
DEPTH = 4  # how many nested dictionaries are searched for weights
SUFFIXES = (".pth", ".pt", ".ckpt")  # file names of torch.save; PyTorch Lightning uses the last
ARGUMENTS = ("args", "hyper_parameters")  # keys of the training arguments: paper's repository, PyTorch Lightning
EXPECTED = "expected is FSRCNN, CARN or SRResNet, alone or as encoder of PCSR"

# Names in the files -> names here. Names that are already those of this project stay unchanged
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
# Other networks -> tensor names by which they are recognised; the first match counts
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
    """Weights under the names of this project, and the spec of their model."""

    spec: OriginalSpec | PCSRSpec
    weights: dict[str, Tensor]


def read_published(path: Path) -> Described:
    """Raises InputError for a file of a network that is not in this project, OSError if it cannot be read."""
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
    if not any(key.startswith("upsamplers.0.") for key in weights):  # phase 0 has only the heavy upsampler
        weights = {re.sub(r"^upsamplers\.1\.", "upsamplers.0.", key): tensor for key, tensor in weights.items()}
    refuse_foreign(named, weights)
    return Described(infer(weights, args), weights)


def unwrap(content: object) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The state dict in a file, and the training arguments stored with it. Raises InputError if there is none."""
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
    """The name of the set of weights to use. Raises InputError if there are several and no name is known."""
    named = [name for pattern in PREFERRED for name in names if re.fullmatch(pattern, name)]
    if not named and len(names) > 1:
        found = ", ".join(f"{name:.20}" for name in names[:4])
        raise InputError(f"holds several sets of weights ({found}); save the state dict of one alone")
    return (named or names)[0]


def holds_weights(value: object, depth: int = DEPTH) -> bool:
    """Whether a value is a state dict or contains one; the state of an optimizer has numbers as keys, and is not."""
    if not depth or not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    return is_state_dict(value) or any(holds_weights(each, depth - 1) for each in value.values())


def is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items())


def without_prefix(named: Mapping[str, Tensor], depth: int = DEPTH) -> Mapping[str, Tensor]:
    """The tensors of a network of this project, without a prefix such as `model.` and without other networks.

    Another network in the same file may be that of a loss. All tensors if there is no network of this project.
    """
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
    """Raises InputError for the weights of a network that is not in this project."""
    names = [re.sub(REMAP[0][0], "", name) for name in named]
    for network, pattern in FOREIGN.items():
        if any(re.search(pattern, name) for name in names):
            raise InputError(f"looks like {network} by its keys; {EXPECTED}")
    if not MARKS.keys() & weights.keys():
        first = ", ".join(f"{name:.40}" for name in names[:2])
        raise InputError(f"another network, whose first keys are {first}; {EXPECTED}")


def infer(weights: Mapping[str, Tensor], args: Mapping[str, Any]) -> OriginalSpec | PCSRSpec:
    """The spec that follows from the shapes; the scale comes from `args` where it does not follow from the shapes.

    Raises InputError if the scale is not known, or if the file holds only an encoder.
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
    """The hidden widths of an MLP: the number of outputs of every Linear except the last."""
    found = [re.fullmatch(re.escape(mlp) + r"layers\.(\d+)\.weight", key) for key in weights]
    numbers = sorted(int(match[1]) for match in found if match)
    return tuple(len(weights[f"{mlp}layers.{number}.weight"]) for number in numbers[:-1])


def shuffled(weights: Mapping[str, Tensor], width: int) -> int:
    """The scale of a pixel-shuffle tail: 4 if it has two steps, otherwise the factor of its one step."""
    return 4 if "tail.shuffle.3.weight" in weights else math.isqrt(len(weights["tail.shuffle.0.weight"]) // width)
