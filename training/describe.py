"""What a training prints first: its model and FLOPs, its data and recipe, where it begins and where it writes."""

from pathlib import Path
from typing import Any

import torch

from datasets.crops import Crops
from models.flops import PATCH, Flops, mlp_flops, network_flops
from models.mlp import PixelMLP
from models.original import OriginalModel
from models.pcsr import PCSR
from training.tasks import Task
from utils.config import Config, DataSpec, OriginalSpec, TrainSpec, listed
from utils.dist import Ranks


def model_lines(config: Config, model: OriginalModel | PCSR) -> list[str]:
    """Parameters and a table of FLOPs. A task has frozen those parameters that are not trained."""
    rows = [*part_rows(config, model), *whole_rows(config, model)]
    width = max(len(name) for name, _ in rows)
    heads = f"{'':{width}}  {'paper account':>14}  {'executed':>14}"
    cells = [f"{name:{width}}  {flops.paper / 1e6:12.2f} M  {flops.executed / 1e6:12.2f} M" for name, flops in rows]
    return [f"{title(config)}: {parameters(model)}", f"FLOPs of {PATCH}x{PATCH} LR pixels at x{scale(config):g}:"] + [
        f"  {line}" for line in (heads, *cells)
    ]


def part_rows(config: Config, model: OriginalModel | PCSR) -> list[tuple[str, Flops]]:
    """Both accounts of each network for PATCH x PATCH LR pixels."""
    rows = [("encoder", network_flops(model.encoder) * PATCH**2)]
    if isinstance(model, PCSR):
        for name, mlp in zip([*names(model), "classifier"], model.mlps(), strict=False):  # phase 0 has no classifier
            per_lr, per_hr = mlp_flops(mlp)
            rows.append((f"{name}, hidden {widths(mlp)}", per_lr * PATCH**2 + per_hr * hr_pixels(config)))
    return rows


def whole_rows(config: Config, model: OriginalModel | PCSR) -> list[tuple[str, Flops]]:
    """Both accounts of the model for as many, with all pixels to one upsampler; the last row is its heaviest."""
    if isinstance(model, OriginalModel):
        return [("all pixels", model.flops_per_lr * PATCH**2)]
    rows = []
    for j, name in enumerate(names(model)):
        assigned = [float(hr_pixels(config)) if i == j else 0.0 for i in range(len(model.upsamplers))]
        rows.append((f"all pixels to the {name}", model.flops.total(PATCH**2, assigned)))
    return rows


def hr_pixels(config: Config) -> int:
    return round(PATCH * scale(config)) ** 2


def names(model: PCSR) -> list[str]:
    """Of the upsamplers."""
    between = [f"upsampler {j}" for j in range(1, len(model.upsamplers) - 1)]
    return ["light upsampler"] * (len(model.upsamplers) > 1) + between + ["heavy upsampler"]


def widths(mlp: PixelMLP) -> str:
    return "-".join(str(linear.out_features) for linear in mlp.linears()[:-1]) or "none"


def start_lines(
    config: Config, task: Task[Any], crops: Crops, folder: Path, start: int, done: float, ranks: Ranks
) -> list[str]:
    """The model, its first weights, the data, device and recipe; or that nothing is left to do if `done` is 1."""
    spec = config.train
    if start == spec.iter_max:
        return [f"{folder}: all {start} iterations are done; --resume with --set iter_max=MORE adds to them"]
    if done >= 1:
        used_up = f"{folder}: the time limit of {spec.time_limit:g} minutes is used up"
        return [f"{used_up} after {start} iterations; --resume with --set time_limit=MORE adds to it"]
    begins = f"iteration {start} of this run" if start else spec.init or "random weights"
    limit = f", {spec.time_limit:g} minutes at most" if spec.time_limit else ""
    kind = ranks.device.type
    device = f"{kind} ({torch.cuda.get_device_name(ranks.device)})" if kind == "cuda" else kind
    name, flops = whole_rows(config, task.model)[-1]
    images, batch, side = len(crops.hr), config.data.batch_size, config.data.patch_size
    return [
        f"training {title(config)}, from {begins} into {folder}, iterations {start + 1} to {spec.iter_max}{limit}",
        f"device: {device}; processes: {ranks.world}; CPU threads of each: {torch.get_num_threads()}",
        f"model: {parameters(task.model)}",
        f"FLOPs of {PATCH}x{PATCH} LR pixels at x{scale(config):g}, {name}: "
        f"{flops.paper / 1e6:.1f} M (paper account), {flops.executed / 1e6:.1f} M (executed)",
        f"data: {images} images in {data_sources(config.data)}; an epoch is {images} crops of {side}x{side} LR pixels, "
        f"one of each, in {images / batch:.1f} iterations of {batch}",
        recipe(spec),
    ]


def recipe(spec: TrainSpec) -> str:
    """What is easily forgotten, and changes what the training reaches."""
    warmup = f" after {spec.warmup} iterations of warm-up" if spec.warmup else ""
    fall = "as a cosine" if spec.schedule == "cosine" else f"over the last {100 * spec.anneal:g} %"
    average = f"; weights averaged, decay {spec.ema_decay:g}" if spec.ema_decay else ""
    return (
        f"recipe: {spec.optimizer}, {spec.loss} loss; learning rate {spec.learning_rate:g}{warmup}, "
        f"falling {fall} to {spec.learning_rate_min:g}{average}"
    )


def data_sources(data: DataSpec) -> str:
    """Where the training images come from."""
    lr = f", with LR images in {', '.join(listed(data.train_lr))}" if data.train_lr else ""
    worse = f", LR degraded by {data.degrade}" if data.degrade else ""
    return f"{', '.join(listed(data.train))}{lr}{worse}"


def title(config: Config) -> str:
    model = config.model
    is_original = isinstance(model, OriginalSpec)
    return f"original {model.backbone}" if is_original else f"PCSR of {model.backbone}, phase {config.train.phase}"


def scale(config: Config) -> float:
    """The highest scale of the training, at which validation is done."""
    return config.data.scales[1]


def parameters(model: OriginalModel | PCSR) -> str:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, learnt in counts if learnt)
    return f"{total:,} parameters, " + ("all of them trained" if trained == total else f"{trained:,} of them trained")


def duration(seconds: float) -> str:
    """Rounded to its two largest units: 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    hours, days = minutes // 60, minutes // 1440
    if not hours:
        return f"{minutes} min"
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min"
