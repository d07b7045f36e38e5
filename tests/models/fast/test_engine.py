"""The engine against the model it is made of."""

import pytest
import torch
from torch import Tensor, nn

from models.build import build_pcsr
from models.decide import assign_k
from models.fast import build
from models.fast.accelerate import FastConv
from models.fast.engine import Engine, GuardedRunner
from models.fast.pixels import CompiledRunner
from models.fast.plain import TorchRunner
from models.grid import grid_over
from models.mlp import PixelMLP
from models.pcsr import PCSR
from models.setting import Setting
from models.tile import whole
from tests.conftest import TINY_PCSR
from utils.config import PCSRSpec

SPECS = {
    "fsrcnn, no hidden layer in the classifier": {"classifier": ()},
    "three upsamplers, no hidden layer": {"upsamplers": ((4,), (16, 17), (33, 33, 33)), "classifier": ()},
    "carn, three upsamplers": {"backbone": "carn", "width": 8, "upsamplers": ((4,), (16, 17), (33, 33, 33))},
    "widths of every number of vectors": {"upsamplers": ((1,), (20, 40, 60, 74)), "classifier": (90, 100)},
    "srresnet, as wide as shipped": {"backbone": "srresnet", "width": 6, "upsamplers": ((40, 40), (170, 170))},
}
SIZES = [(36, 52), (23, 34), (9, 13)]  # HR of 9x13 LR: x4, about x2.6, x1

needs_compiler = pytest.mark.skipif(build.load_kernels() is None, reason="no C++ compiler")


def model_of(changes: dict[str, object]) -> PCSR:
    spec = PCSRSpec.model_validate({**TINY_PCSR.model_dump(), **changes})
    model = build_pcsr(spec)
    for _ in range(2):
        model.encoder(torch.rand(2, 3, 12, 12))  # statistics of BatchNorm worth folding
    return model.eval()


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS.keys())
@torch.inference_mode()
def test_same_numbers(changes: dict[str, object], size: tuple[int, int]) -> None:
    model = model_of(changes)
    model.cell_limits = (0.5, 0.7)
    fast = Engine(model)
    assert all(isinstance(runner, CompiledRunner) for runner in fast.runners)
    lr = torch.rand(2, 3, 9, 13)
    feat, grid, encoded = model.encode(lr), grid_over(lr, size, model.cell_limits), fast.encode(lr)
    odds = model.classify(feat, grid)
    torch.testing.assert_close(fast.classify(encoded, size), odds, rtol=0, atol=2e-5)
    count = len(model.upsamplers)
    some = torch.randint(count, (2, *size))
    few = (torch.rand(2, *size) < 0.02).long() * (count - 1)  # rows without one heavy pixel
    for assignment in (some, few, *(torch.full_like(some, j) for j in range(count))):
        expected = model.upsample(lr, feat, grid, assignment)
        torch.testing.assert_close(fast.upsample(encoded, size, assignment), expected, rtol=0, atol=2e-5)
    cost = [0.2, 0.3, 0.5][-count:]
    own, other = (assign_k(each, cost, 0.0) for each in (odds, fast.classify(encoded, size)))
    top = torch.cat([torch.zeros_like(odds[:, :1]), odds], 1).sort(1).values
    ties = top[:, -1] - top[:, -2] < 1e-4
    assert torch.equal(own[~ties], other[~ties])


@needs_compiler
@pytest.mark.parametrize("backbone", ["softgate", "fsrcnn"])  # the layers of FSRCNN are torch's
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_other_types_of_weights_and_defaults(dtype: torch.dtype, backbone: str) -> None:
    """The kernels read and write float32, whatever the model's weights and torch's default are."""
    model = model_of({"backbone": backbone})
    lr, size = torch.rand(1, 3, 9, 13), (36, 52)
    expected = restored(Engine(model), lr, size)
    torch.set_default_dtype(dtype)
    try:
        torch.testing.assert_close(restored(Engine(model), lr, size), expected)
        torch.testing.assert_close(restored(Engine(model), lr.double(), size), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    rounded = model.to(dtype)
    ours = restored(Engine(rounded, precision=torch.float32), lr, size)
    torch.testing.assert_close(ours, restored(Engine(rounded.float()), lr, size))
    assert (ours - expected).abs().max() < 0.1


@needs_compiler
@pytest.mark.parametrize("part", ["encoder", "upsamplers"])
@torch.inference_mode()
def test_what_is_no_number_stays_none(part: str) -> None:
    """Or a damaged model would make pictures that look like results."""
    model = model_of({"backbone": "carn", "width": 8})
    next(parameter for name, parameter in model.named_parameters() if name.startswith(part)).fill_(torch.nan)
    size = (36, 52)
    engine = Engine(model)
    encoded = engine.encode(torch.rand(1, 3, 9, 13))
    assert engine.upsample(encoded, size, torch.zeros(1, *size, dtype=torch.uint8)).isnan().all()


def restored(engine: Engine, lr: Tensor, size: tuple[int, int]) -> Tensor:
    encoded = engine.encode(lr)
    return engine.upsample(encoded, size, assign_k(engine.classify(encoded, size), [0.2, 0.8], 0.0))


@needs_compiler
@torch.inference_mode()
def test_phase0_and_a_larger_image() -> None:
    model = model_of({"upsamplers": ((8, 8),), "classifier": None})
    lr = torch.rand(1, 3, 40, 60).contiguous(memory_format=torch.channels_last)
    expected, zeros, _ = model(lr, (160, 240), Setting())
    fast = Engine(model)
    torch.testing.assert_close(fast.upsample(fast.encode(lr), (160, 240), zeros), expected, rtol=0, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("backbone", ["carn", "srresnet", "softgate", "fsrcnn"])
@pytest.mark.parametrize("width", [12, 52])  # below and above what the kernels of convolutions take
@torch.inference_mode()
def test_features(backbone: str, width: int) -> None:
    model = model_of({"backbone": backbone, "width": width})
    fast = Engine(model)
    assert any(isinstance(part, FastConv) for part in fast.model.encoder.modules())
    for size in ((70, 230), (5, 3), (33, 97)):
        lr = torch.rand(2, 3, *size)
        torch.testing.assert_close(fast.features(lr, whole(lr)), model.encode(lr), rtol=0, atol=2e-5)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("where", ["encoder", "table", "upsamplers", "classifier"])
@torch.inference_mode()
def test_beyond_float16(where: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of plain torch recompute in float32 what exceeds the range of float16, as compiled ones do."""
    if not compiled:
        monkeypatch.setattr(Engine, "has_compiled", lambda self: False)
    elif not build.has_half():
        pytest.skip("needs a CPU that computes in float16")
    model = model_of({"upsamplers": ((4, 4), (8, 8)), "classifier": (8, 8)})
    lr, size = torch.rand(1, 3, 9, 13), (36, 52)
    mlps = model.mlps()
    places: dict[str, tuple[nn.Module, list[nn.Linear]]] = {
        "encoder": (model.encoder.get_submodule("layers.9"), [mlp.linears()[0] for mlp in mlps]),
        "table": (mlps[0].linears()[0], [mlps[0].linears()[1]]),
        "upsamplers": (mlps[1].linears()[1], [mlps[1].linears()[2]]),
        "classifier": (mlps[2].linears()[1], [mlps[2].linears()[2]]),
    }
    large, small = places[where]
    for parameter in large.parameters():
        parameter.mul_(1e7)
    for layer in small:
        layer.weight.mul_(1e-7)
    feat, grid, fast = model.encode(lr), grid_over(lr, size), Engine(model, precision=torch.float16)
    encoded, some = fast.encode(lr), torch.randint(2, (1, *size))
    torch.testing.assert_close(fast.classify(encoded, size), model.classify(feat, grid), rtol=0.01, atol=0.01)
    expected = model.upsample(lr, feat, grid, some)
    torch.testing.assert_close(fast.upsample(encoded, size, some), expected, rtol=0.01, atol=0.01)


def hiding_mlp() -> PixelMLP:
    """It gives 2 everywhere. In float16 its second layer has an infinite value, of which the third makes zero."""
    mlp = PixelMLP(6, (1, 2, 1), 1).requires_grad_(False)
    weights = [torch.zeros(1, 10), torch.tensor([[5e4], [3e4]]), torch.tensor([[-0.1, 0.5]]), torch.tensor([[1e-4]])]
    for layer, weight in zip(mlp.linears(), weights, strict=True):
        layer.weight.copy_(weight)
        layer.bias.zero_()
    mlp.linears()[0].bias.fill_(2)
    return mlp


@pytest.mark.parametrize("chosen", [True, False])
@torch.inference_mode()
def test_an_infinite_value_that_a_later_layer_hides(chosen: bool) -> None:
    runners = [TorchRunner(hiding_mlp().to(precision)) for precision in (torch.float16, torch.float32)]
    runner, feat, planes = GuardedRunner(*runners), torch.rand(1, 6, 3, 4, dtype=torch.float16), torch.zeros(1, 6, 8)
    table, assignment = runner.table(feat), torch.ones(6, 8, dtype=torch.uint8) if chosen else None
    assert table is not None
    runner.add_to(planes, table[0], grid_over(feat, (6, 8)), 4, assignment, 1)
    torch.testing.assert_close(planes, torch.full_like(planes, 2))


def test_both_runners_of_a_guard_are_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton may compile one precision only."""

    class Other(TorchRunner):
        pass

    def runners_in(self: Engine, precision: torch.dtype, mlps: list[PixelMLP]) -> list[TorchRunner]:
        return [(Other if precision == torch.float16 else TorchRunner)(mlp) for mlp in mlps]

    monkeypatch.setattr(Engine, "has_compiled", lambda self: False)
    monkeypatch.setattr(Engine, "runners_in", runners_in)
    runners = Engine(model_of({}), precision=torch.float16).runners
    assert all(isinstance(runner, GuardedRunner) and type(runner.half) is TorchRunner for runner in runners)


def test_a_copy_is_prepared() -> None:
    model = model_of({})
    lr = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        fast = Engine(model)
        heavy = torch.ones(1, 16, 16)
        before = fast.upsample(fast.encode(lr), (16, 16), heavy)
        for parameter in model.parameters():
            parameter.mul_(2)
        assert torch.equal(fast.upsample(fast.encode(lr), (16, 16), heavy), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_double_precision_stays_with_torch() -> None:
    model = model_of({}).double()
    fast, lr = Engine(model), torch.rand(2, 3, 9, 13, dtype=torch.float64)
    assert all(isinstance(runner, TorchRunner) for runner in fast.runners)
    expected, assignment, _ = model(lr, (23, 34), Setting(refinement=False))
    torch.testing.assert_close(fast.upsample(fast.encode(lr), (23, 34), assignment), expected)


@pytest.mark.parametrize("backbone", ["carn", "srresnet", "softgate", "fsrcnn"])
@torch.inference_mode()
def test_half_precision(backbone: str) -> None:
    model, lr, size = model_of({"backbone": backbone, "width": 8}), torch.rand(2, 3, 9, 13), (23, 34)
    fast = Engine(model, precision=torch.bfloat16)
    encoded, (sr, assignment, _) = fast.encode(lr), model(lr, size, Setting(refinement=False))
    assert all(table.dtype == torch.bfloat16 for table in encoded.tables)
    odds, made = fast.classify(encoded, size), fast.upsample(encoded, size, assignment)
    assert odds.dtype == made.dtype == torch.float32
    expected = model.classify(model.encode(lr), grid_over(lr, size))
    torch.testing.assert_close(odds, expected, rtol=0, atol=0.02 * float(expected.abs().max() + 1))
    torch.testing.assert_close(made, sr, rtol=0, atol=0.02)
    assert model.mean.dtype == next(model.parameters()).dtype == torch.float32
