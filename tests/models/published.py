"""Checkpoints as the paper's repository publishes them, with random weights, and what the networks in them compute.

The formulas are stated here once more, plainly and from the published names, without the project's networks.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CARN_MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)
WIDTH = 8
Weights = dict[str, Tensor]
BACKBONES = ["fsrcnn", "carn", "srresnet"]
ARGUMENT = {"fsrcnn": "d", "carn": "nf", "srresnet": "nf"}  # what the paper's code calls the width


def layer(name: str, out: int, fan_in: int, *kernel: int) -> Weights:
    scale = (fan_in * torch.Size(kernel).numel()) ** -0.5
    return {f"{name}.weight": torch.randn(out, fan_in, *kernel) * scale, f"{name}.bias": torch.randn(out) * 0.1}


def carn_encoder(d: int) -> Weights:
    weights = layer("entry", d, 3, 3, 3)
    for i in range(1, 4):
        for j in (0, 2):
            weights |= layer(f"b{i}.b1.body.{j}", d, d // 4, 3, 3)
        weights |= layer(f"b{i}.b1.body.4", d, d, 1, 1)
    for block in ("b1.", "b2.", "b3.", ""):
        for j in range(1, 4):
            name = f"{block}c{j}"
            weights[f"{name}.0.weight"] = torch.randn(d, (j + 1) * d, 1, 1) * ((j + 1) * d) ** -0.5
            weights |= {f"{name}.1.{key}": torch.randn(d) * 0.1 for key in ("weight", "bias", "running_mean")}
            weights[f"{name}.1.running_var"] = torch.rand(d) + 0.5
            weights[f"{name}.1.num_batches_tracked"] = torch.tensor(7)
    return weights


def srresnet_encoder(d: int) -> Weights:
    weights = layer("conv_first", d, 3, 3, 3)
    for i in range(16):
        for j in (1, 2):
            weights |= layer(f"recon_trunk.{i}.conv{j}", d, d, 3, 3)
    return weights


def fsrcnn_encoder(d: int) -> Weights:
    weights = layer("head_conv.0", d, 3, 5, 5) | layer("body_conv.0.0", 12, d, 1, 1)
    for i in range(1, 5):
        weights |= layer(f"body_conv.{i}", 12, 12, 3, 3)
    weights |= layer("body_conv.6.0", d, 12, 1, 1)
    for name in ("head_conv.1", "body_conv.0.1", "body_conv.5", "body_conv.6.1"):
        weights[f"{name}.weight"] = torch.rand(1)
    return weights


def tail(backbone: str, d: int, scale: int = 4) -> Weights:
    if backbone == "fsrcnn":
        return {"tail_conv.weight": torch.randn(d, 3, 9, 9) * 0.1, "tail_conv.bias": torch.randn(3)}
    names = ["upsample.up.body.0", "upsample.up.body.3"] if backbone == "carn" else ["upconv1", "upconv2"]
    steps = names if scale == 4 else names[:1]
    weights: Weights = {}
    for name in steps:
        weights |= layer(name, (9 if scale == 3 else 4) * d, d // 4 if backbone == "carn" else d, 3, 3)
    if backbone == "carn":
        return weights | layer("exit", 3, d, 3, 3)
    return weights | layer("HRconv", d, d, 3, 3) | layer("conv_last", 3, d, 3, 3)


ENCODERS = {"fsrcnn": fsrcnn_encoder, "carn": carn_encoder, "srresnet": srresnet_encoder}


def original(backbone: str, scale: int = 4) -> dict[str, Any]:
    """What is published of an original model."""
    args = {("scale" if backbone == "carn" else "upscale"): scale, ARGUMENT[backbone]: WIDTH, "no_upsampling": False}
    return {"name": backbone, "args": args, "sd": ENCODERS[backbone](WIDTH) | tail(backbone, WIDTH, scale)}


def mlp(name: str, hidden: list[int], out: int) -> Weights:
    widths = [WIDTH + 4, *hidden, out]
    weights: Weights = {}
    for i in range(len(widths) - 1):
        weights |= layer(f"{name}.imnet.layers.{2 * i}", widths[i + 1], widths[i])
    return weights


def sampler(hidden: list[int]) -> dict[str, Any]:
    return {"name": "liif-sampler", "args": {"imnet_spec": {"name": "mlp", "args": {"hidden_list": hidden}}}}


def pcsr(backbone: str, phase: int = 1) -> dict[str, Any]:
    """What is published of a PCSR model; FSRCNN's classifier is a single Linear."""
    of_classifier = [] if backbone == "fsrcnn" else [4]
    args = {"encoder_spec": {"name": backbone, "args": {ARGUMENT[backbone]: WIDTH, "no_upsampling": True}}}
    args["heavy_sampler_spec"] = sampler([9, 9, 9])
    weights = {f"encoder.{name}": tensor for name, tensor in ENCODERS[backbone](WIDTH).items()}
    weights |= mlp("heavy_sampler", [9, 9, 9], 3)
    if phase == 1:
        args |= {"light_sampler_spec": sampler([5, 5]), "classifier_spec": sampler(of_classifier)}
        weights |= mlp("light_sampler", [5, 5], 3) | mlp("classifier", of_classifier, 2)
    return {"name": f"pcsr-phase{phase}", "args": args, "sd": weights}


def conv(x: Tensor, sd: Mapping[str, Tensor], name: str, groups: int = 1) -> Tensor:
    kernel = sd[f"{name}.weight"]
    return F.conv2d(x, kernel, sd.get(f"{name}.bias"), padding=kernel.shape[-1] // 2, groups=groups)


def features(backbone: str, sd: Mapping[str, Tensor], lr: Tensor) -> Tensor:
    """Encoder: lr (1,3,h,w), mean subtracted -> feat."""
    if backbone == "srresnet":
        x = F.leaky_relu(conv(lr, sd, "conv_first"), 0.1)
        for i in range(16):
            x = x + conv(conv(x, sd, f"recon_trunk.{i}.conv1").relu(), sd, f"recon_trunk.{i}.conv2")
        return x
    if backbone == "fsrcnn":
        x = F.prelu(conv(lr, sd, "head_conv.0"), sd["head_conv.1.weight"])
        x = F.prelu(conv(x, sd, "body_conv.0.0"), sd["body_conv.0.1.weight"])
        for i in range(1, 5):
            x = conv(x, sd, f"body_conv.{i}")
        x = F.prelu(x, sd["body_conv.5.weight"])
        return F.prelu(conv(x, sd, "body_conv.6.0"), sd["body_conv.6.1.weight"])

    def fused(seen: list[Tensor], name: str) -> Tensor:
        x = conv(torch.cat(seen, 1), sd, f"{name}.0")
        mean, var, gain, bias = (sd[f"{name}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, gain, bias).relu()

    def block(x: Tensor, name: str) -> Tensor:
        seen, out = [x], x
        for j in range(1, 4):
            y = conv(out, sd, f"{name}.b1.body.0", 4).relu()
            y = conv(y, sd, f"{name}.b1.body.2", 4).relu()
            seen.append((conv(y, sd, f"{name}.b1.body.4") + out).relu())
            out = fused(seen, f"{name}.c{j}")
        return out

    out = conv(lr, sd, "entry")
    seen = [out]
    for j in range(1, 4):
        seen.append(block(out, f"b{j}"))
        out = fused(seen, f"c{j}")
    return out


def interpolated(lr: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(lr, size, mode="bilinear", align_corners=False)


def restored(backbone: str, sd: Mapping[str, Tensor], lr: Tensor, scale: int = 4) -> Tensor:
    """An original model as a whole."""
    steps, factor = (2, 2) if scale == 4 else (1, scale)
    if backbone == "fsrcnn":
        x = features(backbone, sd, lr)
        return F.conv_transpose2d(x, sd["tail_conv.weight"], sd["tail_conv.bias"], 4, 3, 1)
    if backbone == "carn":
        x = features(backbone, sd, lr - CARN_MEAN)
        for i in range(steps):
            x = F.pixel_shuffle(conv(x, sd, f"upsample.up.body.{3 * i}", 4).relu(), factor)
        return conv(x, sd, "exit") + CARN_MEAN
    x = features(backbone, sd, lr)
    for i in range(steps):
        x = F.leaky_relu(F.pixel_shuffle(conv(x, sd, f"upconv{i + 1}"), factor), 0.1)
    x = conv(F.leaky_relu(conv(x, sd, "HRconv"), 0.1), sd, "conv_last")
    return x + interpolated(lr, (scale * lr.shape[2], scale * lr.shape[3]))


def pixels(backbone: str, sd: Mapping[str, Tensor], lr: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """PCSR at every HR pixel: what heavy and light make of it, (1,3,H,W) each, and the heavy probability (H,W)."""
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in sd.items()}
    feat = features(backbone, encoder, lr - CARN_MEAN if backbone == "carn" else lr)[0]
    h, w = lr.shape[2:]
    size = height, width = h * scale, w * scale
    inputs = []
    for i in range(height):
        for j in range(width):
            y, x = -1 + (2 * i + 1) / height, -1 + (2 * j + 1) / width
            m, n = i // scale, j // scale  # nearest LR pixel of a whole scale
            relative = [(y - (-1 + (2 * m + 1) / h)) * h, (x - (-1 + (2 * n + 1) / w)) * w]
            inputs.append(torch.cat([feat[:, m, n], torch.tensor([*relative, 2 / height * h, 2 / width * w])]))

    def run(name: str) -> Tensor:
        x, count = torch.stack(inputs), sum(key.startswith(name) for key in sd) // 2
        for i in range(count):
            x = F.linear(x, sd[f"{name}.imnet.layers.{2 * i}.weight"], sd[f"{name}.imnet.layers.{2 * i}.bias"])
            x = x.relu() if i < count - 1 else x
        return x.T.reshape(1, -1, height, width)

    base = interpolated(lr, size)
    light, heavy = (run(f"{name}_sampler") + base for name in ("light", "heavy"))
    return heavy, light, run("classifier").softmax(1)[0, 1]
