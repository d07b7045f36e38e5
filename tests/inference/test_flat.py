"""Flat areas that are left out: what is computed is as before, and everything else is interpolated."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.evaluate import noise_like
from inference.encoding import Encoding
from inference.finish import canvas, finish
from inference.flat import Division, best_bands, busy_blocks, divide, stretches_of
from inference.restorers import pcsr_restorer
from inference.tiles import TilePlan
from inference.upscaler import Upscaler
from models.build import build, build_pcsr
from models.decide import least_budget
from models.fast.engine import Engine
from models.grid import bilinear, grid_over
from models.pcsr import PCSR
from models.setting import Rule, Setting
from models.tile import Halo, whole
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, balance, photo, save_tiny
from utils.config import PCSRSpec
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import Array

CPU = torch.device("cpu")
LEVELS = 16.0
HALO = Halo(5)
M3 = TINY_PCSR.model_copy(update={"upsamplers": ((4,), (6,), (8, 8))})
PHASE0 = TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})
RULES: list[tuple[Rule, float]] = [("k", 0.0), ("adaptive", 0.0), ("budget", 0.998), ("heavy", 0.0)]


def sky(height: int = 150, width: int = 130) -> Tensor:
    """Noise below a sky that grows lighter by a level in three pixels, and a bird in it, (1,3,h,w)."""
    lr = torch.arange(height).div(3).floor().div(255).view(1, 1, -1, 1).expand(1, 3, height, width).clone()
    lr[..., 90:, :] = torch.rand(1, 3, height - 90, width)
    lr[..., 20:24, 100:106] = 1
    return lr


def covered(division: Division, lr: Tensor) -> Array:
    """How often each LR pixel lies in a rectangle."""
    times = np.zeros(lr.shape[2:], int)
    for tile in (*division.busy, *division.flat):
        times[tile.rows, tile.cols] += 1
    return times


def interpolated(lr: Tensor, size: tuple[int, int], bits: int = 8) -> Array:
    sr, out = bilinear(lr, grid_over(lr, size)), canvas(*size, bits)
    finish(sr, None, whole(sr), out)
    return out


@pytest.mark.parametrize("height,width", [(150, 130), (16, 16), (7, 200), (200, 33), (2100, 20)])
def test_rectangles_cover_the_image_once(height: int, width: int) -> None:
    lr = torch.zeros(1, 3, height, width)
    for _ in range(5):
        division = divide(lr, LEVELS, HALO)
        assert (covered(division, lr) == 1).all()
        for tile in division.flat:
            part = lr[..., tile.rows, tile.cols]
            assert part.amax() - part.amin() <= LEVELS / 255
        row, column = (int(torch.randint(n, ())) for n in (height, width))
        lr[..., row : row + 9, column : column + 9] = torch.rand(3, 1, 1)


def test_what_is_flat() -> None:
    lr = torch.full((1, 3, 32, 48), 100 / 255)
    assert not busy_blocks(lr, LEVELS, 16).any()
    lr[0, 1, 15, 3] = 116 / 255
    assert not busy_blocks(lr, LEVELS, 16).any()
    lr[0, 1, 15, 3] = 117 / 255  # seen by both blocks, as it lies at their border
    assert busy_blocks(lr, LEVELS, 16).tolist() == [[True, False, False], [True, False, False]]


def test_no_other_bands_cost_less() -> None:
    busy = np.random.default_rng(0).random((6, 9)) < 0.2

    def cost(band: slice, columns: slice) -> int:
        return (band.stop - band.start + 2) * (columns.stop - columns.start + 2)

    def total(edges: tuple[int, ...]) -> int:
        bands = [slice(*edge) for edge in itertools.pairwise((0, *edges, len(busy)))]
        return sum(cost(band, each) for band in bands for each in stretches_of(np.asarray(busy[band]).max(0), 2))

    every = [edges for count in range(len(busy)) for edges in itertools.combinations(range(1, len(busy)), count)]
    found = best_bands(busy, 2, cost)
    assert sum(cost(band, each) for band, stretches in found for each in stretches) == min(map(total, every))
    assert min(map(total, every)) < total(())


@pytest.mark.parametrize("tile_size", [None, 40])
@pytest.mark.parametrize("spec", [TINY_PCSR, M3, PHASE0], ids=["two upsamplers", "three", "one"])
@pytest.mark.parametrize("scale,bits", [(4, 8), (2.5, 16)])
def test_what_is_computed_is_as_before(tile_size: int | None, spec: PCSRSpec, scale: float, bits: int) -> None:
    model, lr = build_pcsr(spec).eval(), sky()
    if spec is not PHASE0:
        balance(model, lr[..., 90:, :], scale)  # of what is not sky
    engine, plan = Engine(model), TilePlan(tile_size, skip_flat=LEVELS)
    one = Encoding(engine, lr, scale, bits, plan, keep=False)
    assert one.skipped is not None
    skipped = one.skipped.numpy()
    assert 0.2 < skipped.mean() < 0.6
    rules = RULES if spec is not PHASE0 else RULES[-1:]
    settings = [Setting(*rule, True, scale) for rule in rules]
    results = pcsr_restorer(model, settings, CPU, plan)(lr, bits=bits)
    encoding, plain = Encoding(engine, lr, scale, bits, plan), Encoding(engine, lr, scale, bits)
    for rule, setting, result in zip(rules, settings, results, strict=True):
        (kept,) = encoding.restore([setting])
        np.testing.assert_array_equal(result.pixels, kept.pixels)
        np.testing.assert_array_equal(result.assignment, kept.assignment)
        np.testing.assert_array_equal(result.pixels[skipped], interpolated(lr, one.size, bits)[skipped])
        assert result.assignment is not None and not result.assignment[skipped].any()
        if rule[0] in ("k", "heavy"):
            (before,) = plain.restore([setting])
            assert before.assignment is not None
            if rule[0] == "k":
                chosen = np.unique(before.assignment[~skipped])
                np.testing.assert_array_equal(chosen, np.arange(len(spec.upsamplers)))
            other = ~skipped & (result.assignment != before.assignment)  # pixels on the threshold
            assert other.mean() < 1e-3
            # refinement at the border of a flat area sees that nothing is heavy there
            away = ~(skipped | border(skipped) | other | border(other))
            away = result.pixels[away].astype(int) - before.pixels[away]
            assert np.abs(away).max() <= (1 if bits == 8 else 8)
            assert (away == 0).mean() > 0.98 or bits == 16
            assert result.flops.executed < before.flops.executed and result.reference == before.reference


def border(mask: Array) -> Array:
    """The pixels outside of a mask that touch it."""
    padded = np.pad(mask, 1)
    shifts = [np.roll(padded, (y, x), (0, 1))[1:-1, 1:-1] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.logical_or.reduce(shifts) & ~mask


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("refinement", [True, False])
def test_a_budget_is_that_of_the_whole_image(share: float, refinement: bool) -> None:
    spec = TINY_PCSR.model_copy(update={"upsamplers": ((2,), (8,), (60, 60))})
    model, lr, plan = build_pcsr(spec).eval(), sky(), TilePlan(skip_flat=LEVELS)
    least = least_budget(model.flops, 4)

    def taken(rule: Rule, value: float) -> float:
        (result,) = pcsr_restorer(model, [Setting(rule, value, refinement)], CPU, plan)(lr)
        return result.flops.paper / result.reference.paper

    heavy = taken("heavy", 0.0)
    assert taken("k", math.inf) < least < heavy < 0.7
    budget = least + share * (heavy - least)
    assert taken("budget", budget) == pytest.approx(budget, abs=1e-4)  # a pixel
    assert taken("budget", 1.0) == heavy
    for image in (lr, torch.zeros(1, 3, 40, 40)):  # the same for every image
        with pytest.raises(
            InputError, match=rf"budget {least - 0.01:g}: must lie between {math.ceil(1000 * least) / 1000:.3f}"
        ):
            pcsr_restorer(model, [Setting("budget", least - 0.01)], CPU, plan)(image)


def test_what_the_encoder_sees() -> None:
    engine, lr, seen = Engine(build_pcsr(TINY_PCSR).eval()), sky(), list[int]()
    assert engine.halo is not None and engine.halo.period == 1
    engine.model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2] * given[0].shape[3]))
    encoding = Encoding(engine, lr, 4, 8, TilePlan(skip_flat=LEVELS), keep=False)
    assert len(encoding.tiles) == len(encoding.division.busy) > 1
    (result,) = encoding.restore([Setting()])
    assert sum(seen) == encoding.division.seen < lr.shape[2] * lr.shape[3]
    assert result.assignment is not None and encoding.skipped is not None
    heavy = int((result.assignment == 1).sum())
    light = encoding.skipped.numel() - int(encoding.skipped.sum()) - heavy
    assert result.flops == engine.flops.total(sum(seen), [light, heavy])
    assert result.heavy_share == heavy / encoding.skipped.numel()


def test_the_first_call_computes_something() -> None:
    """As evaluations make it, to take the time of set-up; the corner of an image may be sky."""
    lr, engine = sky()[..., :8, :8], Engine(build_pcsr(TINY_PCSR).eval())
    assert Encoding(engine, lr, 4, 8, TilePlan(skip_flat=LEVELS)).skipped is not None
    assert Encoding(engine, noise_like(lr), 4, 8, TilePlan(skip_flat=LEVELS)).skipped is None


@pytest.mark.parametrize("rule", RULES)
def test_nothing_but_flat(rule: tuple[Rule, float]) -> None:
    lr = torch.full((1, 3, 40, 50), 0.5)
    (result,) = pcsr_restorer(build_pcsr(TINY_PCSR).eval(), [Setting(*rule)], CPU, TilePlan(skip_flat=1))(lr)
    assert (result.pixels == 128).all()
    assert (result.flops.paper, result.heavy_share) == (0, 0)
    assert result.reference.paper > 0


def test_upscaler() -> None:
    model, lr = build_pcsr(TINY_PCSR).eval(), sky()
    upscaler = Upscaler(model, CPU)
    made, info = upscaler.upscale(lr[0], k=-5, skip_flat=LEVELS, prob=True)
    (expected,) = pcsr_restorer(model, [Setting("k", -5.0)], CPU, TilePlan(skip_flat=LEVELS))(lr, bits=16)
    np.testing.assert_array_equal((made.permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16), expected.pixels)
    assert info.heavy_share == expected.heavy_share < 1
    skipped = Encoding(Engine(model), lr, 4, 8, TilePlan(skip_flat=LEVELS)).skipped
    assert skipped is not None
    assert (info.prob[0][skipped] == 1).all()
    other = Upscaler(model, CPU, TilePlan(skip_flat=LEVELS))
    assert torch.equal(other.upscale(lr[0], k=-5)[0], made)
    assert torch.equal(other.upscale(lr[0], skip_flat=0)[0], upscaler.upscale(lr[0])[0])
    values: list[Any] = [-1, 256, math.nan, "much"]
    for wrong in values:
        with pytest.raises(InputError, match="skip_flat"):
            upscaler.upscale(lr[0], skip_flat=wrong)
    original = build(TINY_ORIGINAL)
    assert not isinstance(original, PCSR)
    with pytest.raises(InputError, match="leave out skip_flat"):
        Upscaler(original.eval(), CPU).upscale(lr[0], skip_flat=1)


def test_a_network_that_sees_the_whole_image() -> None:
    with pytest.raises(InputError, match="must see the whole image"):
        divide(sky(), LEVELS, None)


def test_commands(cli: Cli) -> None:
    save_tiny(Path("save/tiny"), TINY_PCSR)
    save_tiny(Path("save/plain"), TINY_ORIGINAL)
    image = photo(60, 120)
    image[:, :64] = 90
    write_image(Path("hr/one.png"), image)
    up = ("demo.py", "hr/one.png", "--upscale", "--model", "save/tiny")
    assert cli(*up, "--skip_flat", 8).code == 0
    made = read_image(Path("results/demo/one_x4.png")).pixels
    assert (made[:, :190] == 90).all()
    assert "already there" in cli(*up, "--skip_flat", 8).out
    assert "already there" not in cli(*up).out  # another way to make it
    assert (read_image(Path("results/demo/one_x4.png")).pixels[:, :190] != 90).any()
    evaluated = ("test_pcsr.py", "--model", "save/tiny", "--hr_data", "hr", "--skip_flat", 8)
    assert cli(*evaluated, "--per_image").code == 0
    assert Path("results/tiny/hr-x4-flat8/images.csv").exists()
    told = cli(*evaluated)
    assert told.code == 2 and "--per_image" in told.err
    for value in ("-1", "300", "nan", "much"):
        told = cli(*up, f"--skip_flat={value}")
        assert told.code == 2 and "skip_flat" in told.err and "Traceback" not in told.err
    told = cli("demo.py", "hr/one.png", "--upscale", "--model", "save/plain", "--skip_flat", 8)
    assert told.code == 2 and "--skip_flat" in told.err
