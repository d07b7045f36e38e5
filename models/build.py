"""Builds modules from specs; the only file that knows how each backbone is built."""

import contextlib
import copy
from collections.abc import Mapping
from itertools import pairwise

import torch
from pydantic_core import PydanticSerializationError, to_jsonable_python
from torch import nn

from models.backbone import Backbone, Maker, options_of, outside_backbone
from models.carn import CARNEncoder, CARNTail
from models.flops import mlp_flops
from models.fsrcnn import FSRCNNEncoder, FSRCNNTail
from models.mlp import PixelMLP
from models.original import OriginalModel
from models.pcsr import PCSR
from models.softgate import SoftgateEncoder, SoftgateTail
from models.srresnet import SRResNetEncoder, SRResNetTail
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError, ending

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
SIZE = (9, 11)  # (h,w) of a test image that every encoder must accept; odd, to find networks that need even sizes

BACKBONES = {
    "carn": Backbone(CARNEncoder, CARNTail, mean=DIV2K_MEAN, title="CARN"),
    "softgate": Backbone(SoftgateEncoder, SoftgateTail, mean=DIV2K_MEAN, residual=True, title="Softgate"),
    "srresnet": Backbone(SRResNetEncoder, SRResNetTail, residual=True, title="SRResNet"),
    "fsrcnn": Backbone(FSRCNNEncoder, FSRCNNTail, title="FSRCNN"),
}


def backbone_named(name: str) -> Backbone:
    """A backbone of this project, or MODULE:NAME from outside. Raises InputError for an unknown name."""
    if ":" in name:
        return outside_backbone(name)
    if name not in BACKBONES:
        choices = f"{', '.join(BACKBONES)}, or MODULE:NAME of your own"
        raise InputError(f"model.backbone: unknown backbone {name!r}, one of: {choices}")
    return BACKBONES[name]


def makers(spec: OriginalSpec | PCSRSpec) -> list[Maker]:
    """The makers of the encoder and, for an original model, of the tail. Raises InputError if there is no tail."""
    backbone = backbone_named(spec.backbone)
    if isinstance(spec, PCSRSpec):
        return [Maker(backbone.encoder, sizes=1)]
    if backbone.tail is None:
        raise InputError(f"model.backbone: {spec.backbone} has no tail, so that there is no original model of it")
    return [Maker(backbone.encoder, sizes=1), Maker(backbone.tail, sizes=2)]


def build_original(spec: OriginalSpec) -> OriginalModel:
    """An original model. Raises InputError for an unknown backbone, or for a scale that its tail does not support."""
    if spec.scale not in (2, 3, 4):
        raise InputError(f"model.scale: original models exist for x2, x3 and x4, not for x{spec.scale}")
    backbone, (of_encoder, of_tail) = backbone_named(spec.backbone), makers(spec)
    for_encoder, for_tail = options_of([of_encoder, of_tail], spec.options, spec.backbone)
    encoder = of_encoder.make(spec.width, **for_encoder)
    tail = of_tail.make(spec.width, spec.scale, **for_tail)
    check_shape(encoder, "encoder", (3, *SIZE), (spec.width, *SIZE))
    check_shape(tail, "tail", (spec.width, *SIZE), (3, SIZE[0] * spec.scale, SIZE[1] * spec.scale))
    return OriginalModel(encoder, tail, spec.scale, backbone.mean, backbone.residual)


def build_pcsr(spec: PCSRSpec) -> PCSR:
    """A PCSR model with any number of upsamplers. Raises InputError for an unknown backbone or a missing classifier."""
    backbone = backbone_named(spec.backbone)
    count = len(spec.upsamplers)
    if (spec.classifier is None) != (count == 1):
        raise InputError("model.classifier: needed with several upsamplers, null with a single one (phase 0)")
    upsamplers = [PixelMLP(spec.width, hidden, 3) for hidden in spec.upsamplers]
    flops = [mlp_flops(upsampler).per_hr.paper for upsampler in upsamplers]
    if any(light >= heavy for light, heavy in pairwise(flops)):
        raise InputError("model.upsamplers: must be ordered light .. heavy, each with more FLOPs than the one before")
    classifier = None if spec.classifier is None else PixelMLP(spec.width, spec.classifier, count)
    (of_encoder,) = makers(spec)
    (options,) = options_of([of_encoder], spec.options, spec.backbone)
    encoder = of_encoder.make(spec.width, **options)
    check_shape(encoder, "encoder", (3, *SIZE), (spec.width, *SIZE))
    return PCSR(encoder, upsamplers, classifier, backbone.mean)


@torch.no_grad()
def check_shape(module: nn.Module, name: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises InputError unless a new module turns an input of shape `given` (c,h,w) into one of shape `expected`.

    It must also be possible to copy it, as a validation and the preparation for inference do.
    """
    inputs, outputs = (f"(b,{','.join(map(str, sides))})" for sides in (given, expected))
    problem = f"model.backbone: the {name} must take any h and w, and make {outputs} of {inputs}"
    try:  # before it computes without gradients, after which more could be copied
        copy.deepcopy(module)
    except Exception as error:  # a network may raise anything
        raise InputError(f"model.backbone: copy.deepcopy must be able to copy the {name}, but: {error}") from error
    try:
        made = tuple(module.eval()(torch.zeros(1, *given)).shape[1:])
    except Exception as error:  # the same
        raise InputError(f"{problem}, but: {type(error).__name__}: {error}") from error
    module.train()
    if made != expected:
        raise InputError(f"{problem}, not {made}")


def build(spec: OriginalSpec | PCSRSpec) -> OriginalModel | PCSR:
    """Build the model of a spec. Raises InputError if its numbers do not fit together."""
    try:
        return build_original(spec) if isinstance(spec, OriginalSpec) else build_pcsr(spec)
    except InputError:
        raise
    except Exception as error:  # the groups do not divide the width, or code from outside raises anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"model: {spec.backbone} of width {spec.width}: {kind}{error}") from error


def resolved(spec: OriginalSpec | PCSRSpec) -> OriginalSpec | PCSRSpec:
    """The same spec with the values of all options. Its weights then still fit when a default changes."""
    options: dict[str, object] = {}
    for each in options_of(makers(spec), spec.options, spec.backbone):
        for name, value in each.items():
            with contextlib.suppress(PydanticSerializationError):  # a default that a config cannot express
                options[name] = to_jsonable_python(value)
    return spec.model_copy(update={"options": options})


def facts(spec: OriginalSpec | PCSRSpec) -> dict[str, object]:
    """The values of a spec by their keys; each option has a key of its own."""
    return {**vars(spec), "options": {}, **{f"options.{name}": value for name, value in spec.options.items()}}


def difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Text that names the first value in which two models differ, among the keys of both; empty if they agree."""
    differ = [key for key in found.keys() & wanted.keys() if found[key] != wanted[key]]
    if not differ:
        return ""
    first = min(differ, key=list(found).index)
    more = f", and {len(differ) - 1} more differ" if differ[1:] else ""
    return f"{first} is {ending(str(found[first]), 40)}, not {ending(str(wanted[first]), 40)}{more}"
