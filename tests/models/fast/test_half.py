"""The kernels for float16 against those for float32, and what happens to numbers that float16 cannot hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.restorers import pcsr_restorer
from inference.tiles import TilePlan
from models.fast.build import has_half
from models.fast.engine import Engine
from models.fast.linear import linear
from models.fast.winograd import channels_last, convolve
from models.pcsr import PCSR
from models.setting import Setting
from models.softgate import gated
from models.tile import Tile, whole
from tests.models.fast.test_engine import SIZES, SPECS, model_of

pytestmark = pytest.mark.skipif(not has_half(), reason="no compiler or processor for float16")

BACKBONES = ["carn", "srresnet", "softgate", "fsrcnn"]
CPU, HALF = torch.device("cpu"), torch.float16
LIMIT = float(torch.finfo(HALF).max)


def error(made: Tensor, exact: Tensor) -> float:
    """Relative to the largest value."""
    return float((made.double() - exact).abs().max() / exact.abs().max())


def engines(model: PCSR) -> tuple[Engine, Engine]:
    """In float32 and in float16."""
    return Engine(model), Engine(model, precision=HALF)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 47)])
@pytest.mark.parametrize(("ins", "outs", "groups"), [(3, 58, 1), (58, 58, 1), (52, 52, 4), (70, 66, 1), (12, 140, 2)])
@torch.inference_mode()
def test_convolutions(ins: int, outs: int, groups: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, ins, *size), torch.randn(outs, ins // groups, 3, 3), torch.randn(outs)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1, groups=groups)
    made = convolve(x.half(), weight, groups, bias, slope=0.1)
    assert made.dtype == HALF
    assert error(made, F.leaky_relu(exact, 0.1)) < 1e-2
    add = torch.randn_like(exact)
    assert error(convolve(x.half(), weight, groups, bias, add=add.half()), exact + add) < 1e-2
    gate = torch.randn_like(exact)
    assert error(convolve(x.half(), weight, groups, bias, gate=channels_last(gate.half())), gated(gate, exact)) < 1e-2


@pytest.mark.parametrize(("ins", "outs", "inputs"), [(52, 52, 1), (32, 33, 4), (7, 64, 2)])
@torch.inference_mode()
def test_linear_layers(ins: int, outs: int, inputs: int) -> None:
    torch.manual_seed(0)
    rows, weight, bias = (
        [torch.randn(101, ins) for _ in range(inputs)],
        torch.randn(outs, ins * inputs),
        torch.randn(outs),
    )
    made = linear([each.half() for each in rows], weight, bias, slope=0.0)
    assert error(made, F.linear(torch.cat(rows, 1).double(), weight.double(), bias.double()).relu()) < 5e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS.keys())
@torch.inference_mode()
def test_upsamplers_and_classifiers(changes: dict[str, object], size: tuple[int, int]) -> None:
    model = model_of(changes)
    single, half = engines(model)
    lr, count = torch.rand(2, 3, 9, 13), len(model.upsamplers)
    exact, encoded = single.encode(lr), half.encode(lr)
    assert all(table.dtype == HALF for table in encoded.tables)
    torch.testing.assert_close(half.classify(encoded, size), single.classify(exact, size), rtol=0, atol=5e-3)
    some = torch.randint(count, (2, *size))
    few = (torch.rand(2, *size) < 0.02).long() * (count - 1)
    for assignment in (some, few, torch.zeros_like(some)):
        made, expected = (
            engine.upsample(each, size, assignment) for engine, each in ((half, encoded), (single, exact))
        )
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("width", [12, 52])
@torch.inference_mode()
def test_features(backbone: str, width: int) -> None:
    single, half = engines(model_of({"backbone": backbone, "width": width}))
    for size in ((70, 230), (5, 3), (33, 97)):
        lr = torch.rand(2, 3, *size)
        exact, made = single.features(lr, whole(lr)), half.features(lr, whole(lr))
        assert made.dtype == HALF
        torch.testing.assert_close(made.float(), exact, rtol=0, atol=2e-2 * float(exact.abs().max()))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tiles_make_the_picture_that_the_whole_makes(backbone: str) -> None:
    model, lr = model_of({"backbone": backbone, "width": 12}), torch.rand(1, 3, 61, 83)
    setting = Setting(precision="float16", scale=2.5)
    (expected,), (made,) = (pcsr_restorer(model, [setting], CPU, TilePlan(size))(lr, bits=16) for size in (1000, 30))
    same = expected.assignment == made.assignment
    assert np.mean(same) > 0.99
    assert abs(expected.pixels.astype(int) - made.pixels)[same].max() < 600  # of 65535


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_features_beyond_the_range_are_computed_in_float32(backbone: str) -> None:
    model = model_of({"backbone": backbone, "width": 12})
    first = next(part for part in model.encoder.modules() if isinstance(part, torch.nn.Conv2d))
    first.weight.mul_(1e7)
    single, half = engines(model)
    lr, size, light = torch.rand(1, 3, 20, 30), (80, 120), torch.zeros(1, 80, 120)
    assert float(single.features(lr, whole(lr)).abs().max()) > LIMIT
    for tile in (whole(lr), Tile(slice(3, 20), slice(0, 17))):
        exact, encoded = single.encode(lr, tile), half.encode(lr, tile)
        assert torch.equal(half.classify(encoded, size), single.classify(exact, size))
        rows, cols = tile.window(lr, size)
        chosen = light[:, rows, cols]
        assert torch.equal(half.upsample(encoded, size, chosen), single.upsample(exact, size, chosen))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [4.0, 1.7])
@torch.inference_mode()
def test_pixels_beyond_the_range_are_computed_in_float32(scale: float, sign: int) -> None:
    model = model_of({"upsamplers": ((8, 8), (40, 40, 40))})
    for mlp in model.mlps():
        layers = mlp.linears()
        layers[1].weight.mul_(sign * 3e6)  # its sums overflow, and what a rectifier makes of them might look harmless
        layers[-1].weight.mul_(3e-6)
    single, half = engines(model)
    lr = torch.rand(1, 3, 20, 30)
    lr[..., 10:, :] = 0  # some pixels may stay in range
    size = (int(20 * scale), int(30 * scale))
    exact, encoded = single.encode(lr), half.encode(lr)
    odds = single.classify(exact, size)
    torch.testing.assert_close(half.classify(encoded, size), odds, rtol=0, atol=0.02 * float(odds.abs().max()))
    chosen = torch.randint(2, (1, *size))
    made, expected = half.upsample(encoded, size, chosen), single.upsample(exact, size, chosen)
    torch.testing.assert_close(made, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
