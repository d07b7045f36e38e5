"""What restores images, whole or by overlapping patches: bicubic interpolation, an original or a PCSR model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inference.encoding import Encoding, ResultInProgress, check_settings
from inference.finish import canvas, finish
from inference.precision import dtype_of, engine_for
from inference.restore import Clock, Restore, Restored, hr_size
from inference.tiles import MAPS, TilePlan, until_it_fits
from models.decide import check_budget, decide
from models.fast.accelerate import accelerate
from models.fast.engine import Encoded, Engine
from models.fast.fold import folded
from models.flops import PATCH, Flops
from models.original import OriginalModel
from models.pcsr import PCSR, refine
from models.setting import Precision, Setting
from models.tile import whole, with_halo
from utils.device import give_back, image_layout
from utils.errors import InputError
from utils.image import Array
from utils.patches import Patches
from utils.resize import imresize


def bicubic_restorer(scale: float) -> Restore:
    """Restore by MATLAB's bicubic, the usual baseline, on the CPU; its arithmetic is in neither FLOPs account.

    The restorer refuses patches with an InputError.
    """
    free = Flops(0, 0)

    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        if patches:
            raise InputError("bicubic works on whole images, not on patches")
        clock, size = Clock(torch.device("cpu")), hr_size(lr, scale)
        pixels = canvas(*size, bits)
        sr = imresize(lr, size, dtype=torch.float64)
        finish(sr, None, whole(sr), pixels)
        return [Restored("bicubic", pixels, None, 0, 0.0, free, free, clock.lap())]

    return restore


def original_restorer(
    model: OriginalModel, device: torch.device, plan: TilePlan | None = None, precision: Precision = "float32"
) -> Restore:
    """Restore with an original model at its own scale; of a Setting only the precision applies.

    A tile or a batch of patches that exceeds the range of float16 is computed in float32.
    """
    scale, dtype = model.scale, dtype_of(model, device, precision)
    model = folded(model).to(device)
    model.to(memory_format=image_layout(device))  # type: ignore[call-overload]
    if device.type == "cpu" and dtype == torch.float32:
        accelerate(model)
    # the features decide how much memory a pixel takes
    channels = model.encoder(torch.zeros(1, 3, PATCH, PATCH, device=device)).shape[1]

    def sr_of(image: Tensor) -> Tensor:
        sr: Tensor = model(image).float()
        if dtype == torch.float16 and not sr.isfinite().all():
            with torch.autocast(device.type, enabled=False):
                sr = model(image)
        return sr

    def in_tiles(image: Tensor, plan: TilePlan, pixels: Array, clock: Clock) -> None:
        tiles = plan.cut(image, model, 4 * channels * (MAPS + 3 * scale**2))
        clock.lap()  # to find the halo, once a model, is no time of this image
        with plan.bar(len(tiles)) as bar:
            for tile in tiles:
                seen, inside = (image, tile) if len(tiles) == 1 else with_halo(image, tile, model.halo)
                rows, cols = tile.times(scale)
                finish(sr_of(seen), None, inside.times(scale), pixels[rows, cols])
                bar.update()

    @torch.inference_mode()
    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        pixels = canvas(*hr_size(lr, scale), bits)
        batches = [batch.to(device) for batch in (patches.split(lr) if patches else [lr])]
        clock = Clock(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if patches:
                sr = patches.merge(map(sr_of, batches), lr, scale)
                finish(sr, None, whole(sr), pixels)
            else:
                until_it_fits(plan or TilePlan(), lambda plan: in_tiles(batches[0], plan, pixels, clock))
        flops = model.flops_per_lr * sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in batches)
        seconds = clock.lap()
        give_back(lr)
        return [Restored("original", pixels, None, 0, 1.0, flops, flops, seconds)]

    return restore


def settings_for(model: PCSR, settings: Sequence[Setting]) -> list[Setting]:
    """The settings; for a model with one upsampler, the rule `heavy`.

    Raises InputError if that is given another rule, and for a budget that cannot be met.
    """
    if model.classifier is not None:
        for setting in settings:
            if setting.rule == "budget":
                check_budget(setting, model.flops)
        return list(settings)
    if [(setting.rule, setting.value) for setting in settings] not in ([("k", 0.0)], [("heavy", 0.0)]):
        raise InputError("a model of phase 0 has one upsampler and nothing to decide: leave out k, budget and adaptive")
    return [replace(settings[0], rule="heavy")]


def pcsr_restorer(
    model: PCSR, settings: Sequence[Setting], device: torch.device, plan: TilePlan | None = None
) -> Restore:
    """Restore with a PCSR model at the scale and in the precision of the settings, from one encoding of each image.

    Raises InputError for settings that the model cannot follow; the restorer, for settings that differ in
    their scale or precision.
    """
    settings = settings_for(model, settings)
    engine = engine_for(model, device, settings[0].precision)

    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        if patches:
            if plan and plan.skip_flat:
                raise InputError("skip_flat goes with whole images, not with patches")
            return restore_patches(engine, lr, patches, settings, bits)
        return Encoding(engine, lr, settings[0].scale, bits, plan, keep=False).restore_once(settings)

    return restore


@torch.inference_mode()
def restore_patches(
    engine: Engine, lr: Tensor, patches: Patches, settings: Sequence[Setting], bits: int = 8
) -> list[Restored]:
    """lr (1,3,h,w) restored by overlapping patches, which are decided together and averaged where they overlap.

    Raises InputError for patches that do not fall on whole pixels, and for settings that differ in their scale or
    precision.
    """
    scale = settings[0].scale
    check_settings(engine, scale, settings)
    patches.windows(lr, scale)  # raises before anything is computed
    batches = [batch.to(engine.device) for batch in patches.split(lr)]
    size = hr_size(batches[0], scale)
    clock = Clock(engine.device)
    feats = [engine.features(batch, whole(batch)) for batch in batches]

    def encoded() -> Iterator[Encoded]:
        """Made anew each time, as the tables would take six times the memory of the features."""
        return (engine.project(batch, whole(batch), feat) for batch, feat in zip(batches, feats, strict=True))

    log_odds = torch.cat([engine.classify(each, size) for each in encoded()])
    lengths = [len(batch) for batch in batches]
    shared = clock.lap()
    results = []
    for setting in settings:
        result = ResultInProgress(setting, hr_size(lr, scale), bits)
        assignments = decide(log_odds, setting, engine.flops).split(lengths)
        srs = (engine.upsample(each, size, chosen) for each, chosen in zip(encoded(), assignments, strict=True))
        if setting.refinement:
            srs = (refine(sr, chosen) for sr, chosen in zip(srs, assignments, strict=True))
        sr = patches.merge(srs, lr, scale)
        finish(sr, None, whole(sr), result.pixels)
        result.assignment[:] = patches.merge_heaviest(assignments, lr, scale)[0].cpu().numpy()
        for assignment in assignments:
            result.count(assignment, engine.upsampler_count)
        result.seconds = clock.lap()
        results.append(result)
    lr_pixels = sum(lengths) * batches[0].shape[2] * batches[0].shape[3]
    return [result.restored(engine.flops, lr_pixels, lr_pixels, shared) for result in results]
