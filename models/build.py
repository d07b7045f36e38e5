"""Specs -> modules. The only file that knows the backbones' names."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from models.blocks import OriginalModel
from models.carn import CARNEncoder, CARNTail
from models.flops import mlp_flops, network_flops
from models.fsrcnn import FSRCNNEncoder, FSRCNNTail
from models.mlp import PixelMLP
from models.pcsr import PCSR
from models.srresnet import SRResNetEncoder, SRResNetTail
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError


class Parts(NamedTuple):
    """What a backbone is made of; `encoder` takes a width, `tail` a width and an integer scale."""

    encoder: type[nn.Module]
    tail: type[nn.Module]
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    residual: bool = False  # the original model adds bilinear(lr)
    title: str = ""  # the name for people, if it is written otherwise


BACKBONES = {
    "carn": Parts(CARNEncoder, CARNTail, mean=(0.4488, 0.4371, 0.4040), title="CARN"),  # DIV2K's mean
    "srresnet": Parts(SRResNetEncoder, SRResNetTail, residual=True, title="SRResNet"),
    "fsrcnn": Parts(FSRCNNEncoder, FSRCNNTail, title="FSRCNN"),
}


def backbone_parts(name: str) -> Parts:
    if name not in BACKBONES:
        raise InputError(f"model.backbone: unknown backbone {name!r}, one of: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_original(spec: OriginalSpec) -> OriginalModel:
    """An original model. Raises InputError for an unknown backbone or a scale its tail cannot do."""
    parts = backbone_parts(spec.backbone)
    if spec.scale not in (2, 3, 4):
        raise InputError(f"model.scale: original models exist for x2, x3 and x4, not for x{spec.scale}")
    encoder, tail = parts.encoder(spec.width), parts.tail(spec.width, spec.scale)
    model = OriginalModel(encoder, tail, spec.scale, parts.mean, parts.residual)
    network_flops(model)  # a layer that cannot be counted is an error here, not at the first validation
    return model


def build_pcsr(spec: PCSRSpec) -> PCSR:
    """A PCSR model of any number of upsamplers. Raises InputError for an unknown backbone or a missing classifier."""
    parts = backbone_parts(spec.backbone)
    count = len(spec.upsamplers)
    if (spec.classifier is None) != (count == 1):
        raise InputError("model.classifier: needed with several upsamplers, null with a single one (phase 0)")
    upsamplers = [PixelMLP(spec.width, hidden, 3) for hidden in spec.upsamplers]
    flops = [mlp_flops(upsampler).per_hr.paper for upsampler in upsamplers]
    if any(light >= heavy for light, heavy in pairwise(flops)):
        raise InputError("model.upsamplers: must be ordered light .. heavy, each with more FLOPs than the one before")
    classifier = None if spec.classifier is None else PixelMLP(spec.width, spec.classifier, count)
    return PCSR(parts.encoder(spec.width), upsamplers, classifier, parts.mean)


def build(spec: OriginalSpec | PCSRSpec) -> OriginalModel | PCSR:
    """Build whatever a spec describes. Raises InputError if its numbers do not fit together."""
    try:
        return build_original(spec) if isinstance(spec, OriginalSpec) else build_pcsr(spec)
    except InputError:
        raise
    except ValueError as error:  # a width that the backbone's groups do not divide, say
        raise InputError(f"model: {spec.backbone} of width {spec.width}: {error}") from None
