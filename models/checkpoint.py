"""Model files: self-describing safetensors, and the published `.pth` through one remap table."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from models.blocks import Backbone
from models.build import build
from models.pcsr import PCSR
from utils.config import Config, ModelSpec, OriginalSpec, PCSRSpec, dump_yaml
from utils.errors import InputError
from utils.files import write_atomic

SAVE = Path("save")  # every run and every shipped model has a folder in it
WEIGHTS = "model.safetensors"

# Names in the published checkpoints -> names here; a PCSR checkpoint has the same encoder under `encoder.`
REMAP: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^(encoder\.)?(entry|b\d|c\d)\b", r"encoder.\2"),
    (r"^encoder\.b(\d)\.b1\.body\.", lambda m: f"encoder.blocks.{int(m[1]) - 1}.unit.body."),
    (r"^encoder\.b(\d)\.c(\d)\.", lambda m: f"encoder.blocks.{int(m[1]) - 1}.fuse.{int(m[2]) - 1}."),
    (r"^encoder\.c(\d)\.", lambda m: f"encoder.fuse.{int(m[1]) - 1}."),
    (r"^upsample\.up\.body\.", "tail.shuffle."),
    (r"^exit\.", "tail.exit."),
    (r"^light_sampler\.imnet\.", "upsamplers.0."),
    (r"^heavy_sampler\.imnet\.", "upsamplers.1."),
    (r"^classifier\.imnet\.", "classifier."),
]


def save_weights(folder: Path, model: Backbone | PCSR, config: Config) -> None:
    """Write `model.safetensors` (with the model's spec in its header) and `config.yaml`, each atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / "config.yaml", dump_yaml(config).encode())
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"model": config.model.model_dump_json()}))


def load_model(path: str | Path) -> tuple[Backbone | PCSR, OriginalSpec | PCSRSpec]:
    """Build the model a file describes, in eval mode on the CPU.

    `path` is a folder under save/, a `.safetensors` of this project, or a published `.pth`. Raises InputError if it is
    missing, damaged, or not a model of this project.
    """
    path = Path(path)
    if path.is_dir():
        path = path / WEIGHTS
    if not path.is_file():
        raise InputError(
            f"{path}: no such model; give a folder that save/ has, a .safetensors or a published .pth, or train it"
        )
    try:
        with warnings.catch_warnings(record=True):  # torch.load warns of files that it then refuses
            spec, tensors = read_published(path) if path.suffix == ".pth" else read_safetensors(path)
        model = build(spec)
        model.load_state_dict({"mean": model.mean, **tensors})  # published checkpoints carry no mean
    except Exception as error:  # a file that is no checkpoint trips the readers anywhere
        raise InputError(f"{path}: not a model of this project or of the paper's repository ({error})") from error
    return model.eval(), spec


def read_safetensors(path: Path) -> tuple[OriginalSpec | PCSRSpec, dict[str, Tensor]]:
    """A file of this project: the model's spec in its header, and the weights. Raises whatever reading raises."""
    with safe_open(path, framework="pt") as file:
        described = (file.metadata() or {})["model"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    return TypeAdapter[OriginalSpec | PCSRSpec](ModelSpec).validate_json(described), tensors


def read_published(path: Path) -> tuple[OriginalSpec | PCSRSpec, dict[str, Tensor]]:
    """A checkpoint of the paper's repository, model: {name, args, sd}. Raises whatever reading raises."""
    published = torch.load(path, map_location="cpu", weights_only=True)["model"]
    described = describe_published(published["name"], published["args"])
    spec = TypeAdapter[OriginalSpec | PCSRSpec](ModelSpec).validate_python(described)
    return spec, {remap(key): tensor for key, tensor in published["sd"].items()}


def describe_published(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The published name and arguments as one of our specs."""
    if not name.startswith("pcsr"):
        return {"kind": "original", "backbone": name, "width": args["nf"], "scale": args["scale"]}

    def hidden(sampler: str) -> list[int]:
        return args[f"{sampler}_spec"]["args"]["imnet_spec"]["args"]["hidden_list"]

    encoder = args["encoder_spec"]
    return {
        "kind": "pcsr",
        "backbone": encoder["name"],
        "width": encoder["args"]["nf"],
        "upsamplers": [hidden("light_sampler"), hidden("heavy_sampler")],
        "classifier": hidden("classifier"),
    }


def remap(key: str) -> str:
    for pattern, replacement in REMAP:
        key = re.sub(pattern, replacement, key)
    return key
