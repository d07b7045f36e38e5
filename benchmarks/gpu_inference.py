"""Restoring on a GPU, for benchmarks/gpu.py: all methods, with LR and SR on the device, and our steps one by one.

Seconds are medians of single runs after warm-up; the device is waited for before and after each. The floor of a step is
the longer of two times: its FLOPs at the rate of a large matrix product of the same precision, and the bytes that it
must read and write at the bandwidth of a large copy, if each convolution reads its input and writes its output once.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor, nn

from benchmarks import formulation
from benchmarks.common import SCALE, timed
from benchmarks.ways import AS_PUBLISHED, MB, SETTINGS
from evaluation.metrics import psnr
from inference.restorers import original_restorer, pcsr_restorer
from models.build import build
from models.checkpoint import SAVE, WEIGHTS, load_model
from models.decide import decide
from models.fast.engine import Engine
from models.fast.fold import folded
from models.flops import network_flops
from models.original import OriginalModel
from models.pcsr import PCSR, refine
from models.setting import Precision, Setting
from models.tile import whole
from utils.decode import read_image
from utils.files import list_images
from utils.image import Array, to_pixels, to_tensor
from utils.parse import load_config
from utils.resize import downscale

Measured = dict[str, Any]
Run = Callable[[], Tensor]  # one image: SR (1,3,H,W) on the device, or in 8 bits in the memory of the CPU
SIZES = {"2K": (1080, 2048), "4K": (2160, 3840), "8K": (4320, 7680)}  # height and width of the output
PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TIMED = {"cuda": 2.0, "cpu": 0.1}  # seconds of timed runs of each method, but LEAST .. MOST runs
LEAST, MOST = 3, 30
SEEN = SIZES["2K"]  # PSNR is measured in so large a corner of the output, at the upper left


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products may round their factors to TF32; torch's default allows it to convolutions alone."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def picture(height: int, width: int, folder: Path | None) -> Array:
    """HR (H,W,3) uint8: images of a folder or of scikit-image side by side, mirrored until they fill it."""
    if folder is not None:
        images = [to_pixels(to_tensor(read_image(path).pixels)) for path in list_images(folder)[:4]]
    else:
        images = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    low = min(height, *(len(image) for image in images))
    row = np.concatenate([image[:low] for image in images], axis=1)[:, :width]
    return np.pad(row, ((0, height - low), (0, width - row.shape[1]), (0, 0)), "symmetric")


def load_or_make(name: str, config: str) -> tuple[Any, bool]:
    """The model in save/, or else one from its config with random weights; and whether it is trained."""
    if (SAVE / name / WEIGHTS).exists():
        return load_model(SAVE / name)[0].eval(), True
    torch.manual_seed(0)
    return build(load_config(config).model).eval(), False


def machine_rates(device: torch.device) -> list[Measured]:
    """FLOPs a second of a large matrix product in each precision, and bytes a second of a large copy."""
    cuda = device.type == "cuda"
    side, rows = 8192 if cuda else 128, []
    for name, dtype in (*PRECISIONS.items(), ("tf32", torch.float32)):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with tf32(name == "tf32"):
            seconds = min(timed(partial(torch.mm, a, b), device) for _ in range(6))
        rows.append({"name": name, "rate": 2 * side**3 / seconds})
    size = min(1 << 30, torch.cuda.mem_get_info(device)[0] // 16) if cuda else 1 << 22  # at most 4 GB
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    seconds = min(timed(partial(target.copy_, source), device) for _ in range(6))
    return [*rows, {"name": "copy", "rate": 2 * source.nbytes / seconds}]


def on_device(engine: Engine, lr: Tensor, setting: Setting) -> Tensor:
    """As Encoding.restore, but the result is not rounded and stays on the device."""
    size = (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
    encoded = engine.encode(lr)
    assignment = decide(engine.classify(encoded, size), setting, engine.flops)
    return refine(engine.upsample(encoded, size, assignment), assignment)


def ways(pcsr: PCSR, original: OriginalModel, lr: Tensor) -> dict[str, Callable[[], Run]]:
    """All methods by name, the most important first; each is made when it is called for."""
    device = lr.device

    def plain() -> Run:
        model = copy.deepcopy(original).to(device)
        return lambda: model(lr)

    def fast(dtype: torch.dtype, compiled: bool = False) -> Run:
        model = folded(original).to(device, dtype)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        given = lr.to(dtype, memory_format=torch.channels_last)
        run = torch.compile(model, dynamic=False) if compiled else model
        return lambda: run(given)

    def as_published() -> Run:
        model, size = copy.deepcopy(pcsr).to(device), (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
        return lambda: formulation.restore(model, lr, size, AS_PUBLISHED.value)[0]

    def ours(dtype: torch.dtype, setting: Setting) -> Run:
        engine = Engine(pcsr, device, dtype)
        return lambda: on_device(engine, lr, setting)

    def to_file(precision: Precision | None) -> Run:
        """Everything but reading and writing files: 8-bit pixels in the CPU's memory."""
        if precision is None:
            restore = original_restorer(original, device)
        else:
            restore = pcsr_restorer(pcsr, [replace(AS_PUBLISHED, precision=precision)], device)
        given = lr.cpu()
        return lambda: torch.from_numpy(restore(given)[0].pixels).permute(2, 0, 1)[None]

    def named(setting: str) -> dict[str, Callable[[], Run]]:
        return {
            f"ours {name}, {setting}": partial(ours, dtype, SETTINGS[setting]) for name, dtype in PRECISIONS.items()
        }

    return {
        "original eager": plain,
        **named("k=0"),
        **{f"original channels-last {name}": partial(fast, dtype) for name, dtype in PRECISIONS.items()},
        "published": as_published,
        **{name: way for setting in SETTINGS if setting != "k=0" for name, way in named(setting).items()},
        "original tf32": partial(fast, torch.float32),
        "ours tf32, k=0": partial(ours, torch.float32, SETTINGS["k=0"]),
        "to 8 bits, original": partial(to_file, None),
        **{f"to 8 bits, ours {name}, k=0": partial(to_file, name) for name in PRECISIONS},
        **{f"original compiled {name}": partial(fast, dtype, True) for name, dtype in PRECISIONS.items()},
    }


def measured(run: Run, hr: Tensor, trained: bool, device: torch.device) -> Measured:
    """PSNR, seconds and peak memory of one method."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    sr = run()
    seen = sr[..., : SEEN[0], : SEEN[1]]
    quality = psnr(seen / 255 if seen.dtype == torch.uint8 else seen.float(), hr, SCALE)
    del sr
    peak = torch.cuda.max_memory_allocated(device) / MB if cuda else None
    once = min(timed(run, device) for _ in range(2))
    rounds = max(LEAST, min(MOST, int(TIMED[device.type] / once)))
    seconds = sorted(timed(run, device) for _ in range(rounds))
    row = {"seconds": median(seconds), "fastest": seconds[0], "rounds": rounds, "peak_mb": peak}
    return {**row, "psnr": quality if trained else None}


def convolution_bytes(encoder: nn.Module, image: Tensor) -> int:
    """The bytes that the convolutions of an encoder read and write for an image, without their weights."""
    total = 0

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].nbytes + output.nbytes

    hooks = [part.register_forward_hook(add) for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    encoder(image)
    for hook in hooks:
        hook.remove()
    return total


def steps(pcsr: PCSR, precision: Precision, lr: Tensor, rates: dict[str, float]) -> list[Measured]:
    """Seconds and floor of each of our steps at k = 0."""
    engine, setting, tile = Engine(pcsr, lr.device, PRECISIONS[precision]), SETTINGS["k=0"], whole(lr)
    size = (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
    feat = engine.features(lr, tile)
    encoded = engine.project(lr, tile, feat)
    log_odds = engine.classify(encoded, size)
    assignment = decide(log_odds, setting, engine.flops)
    sr = engine.upsample(encoded, size, assignment)
    counts = torch.bincount(assignment.flatten().long(), minlength=engine.upsampler_count).tolist()
    lr_pixels, pixels, parts = lr.shape[2] * lr.shape[3], math.prod(size), engine.flops
    tables = sum(table.nbytes for table in encoded.tables)
    channels = tables / feat.element_size() / lr_pixels
    spent = sum(count * flops.executed for count, flops in zip(counts, parts.upsamplers, strict=True))
    encoder = folded(pcsr).encoder.to(lr.device, engine.precision)
    moved = convolution_bytes(encoder, (lr - engine.model.mean).to(engine.precision))
    # the call, its FLOPs, its bytes
    table: dict[str, tuple[Callable[[], object], float, float]] = {
        "encode": (lambda: engine.features(lr, tile), network_flops(pcsr.encoder).executed * lr_pixels, moved),
        "project": (
            lambda: engine.project(lr, tile, feat),
            2 * engine.channels * channels * lr_pixels,
            feat.nbytes + tables,
        ),
        "classify": (
            lambda: engine.classify(encoded, size),
            parts.classifier.executed * pixels,
            encoded.tables[-1].nbytes + log_odds.nbytes,
        ),
        "decide": (lambda: decide(log_odds, setting, parts), 0, log_odds.nbytes + assignment.nbytes),
        "upsample": (
            lambda: engine.upsample(encoded, size, assignment),
            spent,
            tables - encoded.tables[-1].nbytes + assignment.nbytes + 2 * sr.nbytes,
        ),
        "refine": (lambda: refine(sr, assignment), 0, 2 * sr.nbytes + assignment.nbytes),
    }
    rows = []
    for name, (call, flops, size_in_bytes) in table.items():
        for _ in range(2):
            call()
        row = {"precision": precision, "step": name, "seconds": median(timed(call, lr.device) for _ in range(10))}
        row |= {"flops_executed": flops, "bytes": size_in_bytes, "heavy_share": counts[-1] / pixels}
        row["floor_seconds"] = max(flops / rates[precision], size_in_bytes / rates["copy"])
        rows.append(row)
    return rows


@torch.inference_mode()
def inference(
    backbone: str, output: str, folder: Path | None, device: torch.device, compiled: bool = False
) -> Iterator[Measured]:
    """Rows of all methods and then of our steps, or of the compiled methods; a failure gives a row with the reason."""
    height, width = (side if device.type == "cuda" else side // 64 * 4 for side in SIZES[output])
    pcsr, trained = load_or_make(f"{backbone}-pcsr-phase1", f"configs/{backbone}-pcsr-phase1.yaml")
    original, with_weights = load_or_make(f"{backbone}-x{SCALE}", f"configs/{backbone}-x{SCALE}.yaml")
    hr = to_tensor(picture(height, width, folder))
    lr, hr = downscale(hr.to(device), SCALE, dtype=torch.float32), hr[..., : SEEN[0], : SEEN[1]].clone()
    about = {"backbone": backbone, "output": output, "width": width, "height": height}
    for name, make in ways(pcsr, original, lr).items():
        if ("compiled" in name) != compiled:
            continue
        known = with_weights if "original" in name else trained
        torch.compiler.reset()  # what was compiled before counts towards a limit
        try:
            with tf32("tf32" in name):
                row = measured(make(), hr, known, device)
        except Exception as error:  # one failure must not stop the others
            row = {"error": f"{type(error).__name__}: {error}"[:500]}
        yield {**about, "name": name, "trained": known, **row}
    if not compiled:
        rates = {row["name"]: row["rate"] for row in machine_rates(device)}
        for precision in PRECISIONS:
            try:
                with tf32(False):
                    rows = steps(pcsr, precision, lr, rates)
            except Exception as error:  # as above
                rows = [{"precision": precision, "error": f"{type(error).__name__}: {error}"[:500]}]
            yield from ({**about, **row} for row in rows)
