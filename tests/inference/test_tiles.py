"""Large images in tiles: the numbers of the whole, for every backbone, scale and rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inference import finish
from inference.restore import Clock
from inference.restorers import original_restorer, pcsr_restorer
from inference.tiles import TilePlan, cut
from models.build import build
from models.fast import engine as fast
from models.fast.build import load_kernels
from models.grid import bilinear, grid_over
from models.halo import find_halo
from models.pcsr import PCSR, refine
from models.setting import Rule, Setting
from models.tile import Tile, whole
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, make_folder, save_tiny
from utils.config import OriginalSpec, PCSRSpec
from utils.decode import read_image
from utils.patches import Patches

BACKBONES = ("carn", "srresnet", "softgate", "fsrcnn")
CPU = torch.device("cpu")
RULES: list[tuple[Rule, float]] = [("k", 0.1), ("adaptive", 0.0), ("budget", 0.998)]

needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C++ compiler")


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiler), "torch"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        for module in (fast, finish):
            monkeypatch.setattr(module, "load_kernels", lambda: None)
    return str(request.param)


def model_of(spec: PCSRSpec | OriginalSpec, backbone: str) -> Any:
    return build(type(spec).model_validate({**spec.model_dump(), "backbone": backbone, "width": 8})).eval()


@pytest.mark.parametrize("scale", [4, 2.5])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_pcsr(backbone: str, scale: float, kind: str) -> None:
    model = model_of(TINY_PCSR, backbone)
    lr = torch.rand(1, 3, 45, 68)
    settings = [Setting(*rule, scale=scale) for rule in RULES]
    expected, results = (pcsr_restorer(model, settings, CPU, TilePlan(size))(lr) for size in (1000, 30))
    assert any(0 < result.heavy_share < 1 for result in expected)
    for a, b in zip(expected, results, strict=True):
        assert a.assignment is not None and b.assignment is not None
        # a tile's sums are rounded otherwise, which may turn a pixel that lies on the threshold
        turned = torch.from_numpy(a.assignment != b.assignment)[None].float()
        assert turned.mean() < 1e-3
        near = F.max_pool2d(turned, 3, 1, 1)[0].bool().numpy()  # refinement looks at the neighbours
        assert np.abs(a.pixels.astype(int) - b.pixels.astype(int))[~near].max() <= 1


def test_phase0_and_16_bits(kind: str) -> None:
    model: Any = build(TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})).eval()
    lr = torch.rand(1, 3, 45, 68)
    a, b = (pcsr_restorer(model, [Setting()], CPU, TilePlan(size))(lr, bits=16)[0] for size in (1000, 30))
    assert a.pixels.dtype == np.uint16 and np.abs(a.pixels.astype(int) - b.pixels.astype(int)).max() <= 1
    assert a.heavy_share == b.heavy_share == 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_original(backbone: str, kind: str) -> None:
    model = model_of(TINY_ORIGINAL, backbone)
    lr = torch.rand(1, 3, 81, 96)
    a, b = (original_restorer(model, CPU, TilePlan(size))(lr, bits=16)[0] for size in (1000, 30))
    assert np.abs(a.pixels.astype(int) - b.pixels.astype(int)).max() <= 1


def test_to_find_the_halo_is_no_time_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(argument: Any) -> Any:
            order.append(name)
            return function(argument)

        return call

    monkeypatch.setattr("models.original.find_halo", noted("halo", find_halo))
    monkeypatch.setattr(Clock, "lap", noted("lap", Clock.lap))
    restore: Any = original_restorer(model_of(TINY_ORIGINAL, "fsrcnn"), CPU, TilePlan(30))
    restore(torch.rand(1, 3, 81, 96))
    assert order == ["halo", "lap", "lap"]  # the first begins the time, the second ends it


@pytest.mark.parametrize("patches", [None, Patches(24, 20)], ids=["tiles", "patches"])
@pytest.mark.parametrize("growth", [1.0, 1e7])
def test_an_original_beyond_float16_is_computed_in_float32(growth: float, patches: Patches | None) -> None:
    model: Any = build(TINY_ORIGINAL).eval()
    first, second = [part for part in model.encoder.modules() if isinstance(part, torch.nn.Conv2d)][:2]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(growth)
        second.weight.div_(growth)
    lr = torch.rand(1, 3, 44, 64)
    plan = TilePlan(30)
    (half,), (single,) = (
        original_restorer(model, CPU, plan, precision)(lr, patches, 16) for precision in ("float16", "float32")
    )
    difference = np.abs(half.pixels.astype(int) - single.pixels.astype(int)).max()
    assert difference <= 1 if growth > 1 else 1 < difference < 600  # of 65535


@pytest.mark.parametrize("option", ["--tile_size", "--part_size"])
def test_the_option_of_the_commands(option: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    make_folder(tmp_path / "in", [(40, 52)])
    counts, plain = [], TilePlan.cut

    def counting(*args: Any) -> list[Tile]:
        tiles = plain(*args)
        counts.append(len(tiles))
        return tiles

    monkeypatch.setattr(TilePlan, "cut", counting)
    given = ("demo.py", "in/img_0.png", "--upscale", "--model", "tiny", "--device", "cpu", "--out_dir")
    assert cli(*given, "whole").code == cli(*given, "tiles", option, "20").code == 0
    assert counts[0] == 1 < counts[1]
    whole, tiles = (read_image(tmp_path / name / "img_0_x4.png").pixels.astype(int) for name in ("whole", "tiles"))
    assert abs(whole - tiles).max() <= 1


@pytest.mark.parametrize("spec", [TINY_PCSR, TINY_ORIGINAL], ids=["pcsr", "original"])
@pytest.mark.parametrize("tile_size", [None, 80])
def test_smaller_tiles_where_the_memory_does_not_suffice(
    spec: PCSRSpec | OriginalSpec, tile_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lr, seen = build(spec).eval(), torch.rand(1, 3, 96, 128), []

    def restore() -> Any:
        plan = TilePlan(tile_size)
        made = (
            pcsr_restorer(model, [Setting()], CPU, plan)
            if isinstance(model, PCSR)
            else original_restorer(model, CPU, plan)
        )
        return made(lr)[0].pixels

    expected, forward = restore(), torch.nn.Conv2d.forward
    limit = 64**2

    def in_little_memory(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[2] * x.shape[3])
        if seen[-1] > limit:
            raise torch.OutOfMemoryError
        return forward(self, x)

    with monkeypatch.context() as patch:
        for module in (fast, finish):
            patch.setattr(module, "load_kernels", lambda: None)
        patch.setattr("inference.restorers.accelerate", lambda model: None)
        patch.setattr("inference.tiles.allowance", lambda device: 4 * 1000 * 96 * 128)
        patch.setattr(torch.nn.Conv2d, "forward", in_little_memory)
        difference = np.abs(restore().astype(int) - expected)
        assert difference.max() <= 1 and max(seen) > limit >= seen[-1]
        limit = 1
        with pytest.raises(torch.OutOfMemoryError):
            restore()


@pytest.mark.parametrize("size", [(5, 7), (60, 200), (300, 41), (128, 128)])
@pytest.mark.parametrize("area", [1, 3000, 20_000, 1e9])
def test_tiles_cover_the_image_once(size: tuple[int, int], area: float) -> None:
    seen = torch.zeros(size)
    for rows, cols in cut(torch.zeros(1, 3, *size), 3, area):
        seen[rows, cols] += 1
    assert torch.equal(seen, torch.ones(size))


@pytest.mark.parametrize("size", [(36, 52), (23, 34), (100, 71), (9, 13)])
def test_bilinear(size: tuple[int, int]) -> None:
    lr = torch.rand(2, 3, 9, 13)
    expected = F.interpolate(lr, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(bilinear(lr, grid_over(lr, size)), expected, rtol=0, atol=1e-5)
    for tile in [*cut(lr, 0, 20), Tile(slice(0, 1), slice(0, 1)), Tile(slice(8, 9), slice(12, 13))]:
        rows, cols = tile.window(lr, size)
        torch.testing.assert_close(
            bilinear(lr, grid_over(lr, size, tile=tile)), expected[..., rows, cols], rtol=0, atol=1e-5
        )


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (40, 57)])
@pytest.mark.parametrize("bits", [8, 16])
def test_compiled_refinement_and_rounding(size: tuple[int, int], bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sr, assignment = torch.rand(1, 3, *size) * 1.2 - 0.1, torch.randint(3, (1, *size), dtype=torch.uint8)
    inside = Tile(slice(0, size[0]), slice(size[1] // 3, size[1]))
    width = inside.cols.stop - inside.cols.start
    for chosen in (assignment, None):
        own, other = finish.canvas(size[0], 2 * width, bits), finish.canvas(size[0], 2 * width, bits)
        own[:], other[:] = 7, 7
        finish.finish(sr, chosen, inside, own[:, :width])
        with monkeypatch.context() as patch:
            patch.setattr(finish, "load_kernels", lambda: None)
            finish.finish(sr, chosen, inside, other[:, :width])
        # the mean of nine is summed in another order, so a value on the edge of two levels may go either way
        assert np.abs(own.astype(int) - other.astype(int)).max() <= (0 if chosen is None else 1)
    assert whole(sr) == Tile(slice(0, size[0]), slice(0, size[1])) and refine(sr, assignment).shape == sr.shape
