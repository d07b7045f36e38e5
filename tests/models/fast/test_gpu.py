"""The Triton kernel against plain torch: on the GPU if there is one, else on the CPU by Triton's interpreter."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from models.build import build_pcsr
from models.decide import probabilities
from models.fast.engine import Engine, differences, triton_runner, triton_runners
from models.fast.plain import TorchRunner
from models.grid import grid_over
from models.mlp import PixelMLP
from models.setting import Setting
from tests.conftest import TINY_PCSR
from tests.models.fast.test_engine import hiding_mlp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HIDDEN = [(), (4,), (16, 17), (33, 33, 33), (20, 40, 60, 74), (40,) * 5, (170, 170)]  # of 0 to 5 later layers
LR = (5, 7)
SIZES = [(20, 28), (13, 18), (5, 7)]  # x4, about x2.6, x1


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")  # read where a kernel is declared and at its first launch
        pytest.importorskip("triton", reason="Triton is not installed: it comes with the CUDA builds of torch")
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield importlib.import_module("models.fast.gpu")


def mlp_of(hidden: tuple[int, ...], outputs: int = 3) -> PixelMLP:
    return PixelMLP(6, hidden, outputs).to(DEVICE).requires_grad_(False)


def plain(mlp: PixelMLP, feat: Tensor, size: tuple[int, int]) -> Tensor:
    """The MLP at every HR pixel, (n,H,W)."""
    return mlp(feat, grid_over(feat, size))[0].permute(2, 0, 1)


def fused(gpu: ModuleType, mlp: PixelMLP, feat: Tensor, planes: Tensor, assignment: Tensor | None) -> Tensor:
    """What the kernel adds to planes (n,H,W) where assignment is 1, in the MLP's dtype."""
    grid = grid_over(feat, (planes.shape[1], planes.shape[2]))
    runner = gpu.TritonRunner(mlp)
    result = planes.clone()
    runner.add_to(result, runner.table(feat.to(runner.bias.dtype))[0], grid, feat.shape[3], assignment, 1)
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hidden", HIDDEN)
@torch.inference_mode()
def test_same_numbers(gpu: ModuleType, hidden: tuple[int, ...], size: tuple[int, int]) -> None:
    mlp, feat, planes = mlp_of(hidden), torch.randn(1, 6, *LR, device=DEVICE), torch.randn(3, *size, device=DEVICE)
    values = plain(mlp, feat, size)
    torch.testing.assert_close(fused(gpu, mlp, feat, planes, None), planes + values, rtol=0, atol=2e-5)
    some = torch.randint(3, size, device=DEVICE, dtype=torch.uint8)
    few = (torch.rand(size, device=DEVICE) < 0.02).byte()  # rows without one
    for assignment in (some, few, torch.ones_like(few), torch.zeros_like(few)):
        result = fused(gpu, mlp, feat, planes, assignment)
        torch.testing.assert_close(result, planes + values * (assignment == 1), rtol=0, atol=2e-5)
        assert torch.equal(result[:, assignment != 1], planes[:, assignment != 1])


@pytest.mark.parametrize("dtype,tolerance", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("hidden", HIDDEN)
@torch.inference_mode()
def test_half_precision(gpu: ModuleType, hidden: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    if DEVICE == "cpu" and dtype == torch.bfloat16 and hidden:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")
    mlp, feat, planes = mlp_of(hidden), torch.randn(1, 6, *LR, device=DEVICE), torch.zeros(3, 13, 18, device=DEVICE)
    values = plain(mlp, feat, (13, 18))
    torch.testing.assert_close(fused(gpu, mlp.to(dtype), feat, planes, None), values, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_an_infinite_value_that_a_later_layer_hides(gpu: ModuleType) -> None:
    mlp, feat, planes = (
        hiding_mlp().to(DEVICE),
        torch.rand(1, 6, *LR, device=DEVICE),
        torch.zeros(1, 13, 18, device=DEVICE),
    )
    torch.testing.assert_close(fused(gpu, mlp, feat, planes, None), torch.full_like(planes, 2))
    assert fused(gpu, mlp.half(), feat, planes, None).isnan().all()  # for GuardedRunner to see


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-5), (torch.float16, 4e-3)])
@torch.inference_mode()
def test_a_model_with_these_kernels(
    gpu: ModuleType, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.fast.engine.load_kernels", lambda: None)  # as on a GPU
    model = build_pcsr(TINY_PCSR).to(DEVICE).eval()
    fast = Engine(model, precision=dtype)
    *upsamplers, classifier = fast.model.mlps()
    fast.runners = triton_runners([mlp.to(dtype) for mlp in (*upsamplers, differences(classifier))], model.mean)
    assert all(isinstance(kernel, gpu.TritonRunner) for kernel in fast.runners)
    lr, size = torch.rand(2, 3, *LR, device=DEVICE), (13, 18)
    sr, assignment, prob = model(lr, size, Setting(refinement=False))
    encoded = fast.encode(lr)
    assert all(table.dtype == dtype for table in encoded.tables)
    torch.testing.assert_close(probabilities(fast.classify(encoded, size)), prob, rtol=0, atol=tolerance)
    torch.testing.assert_close(fast.upsample(encoded, size, assignment), sr, rtol=0, atol=tolerance)


@pytest.mark.parametrize("width", [1, 10, 16, 17, 20, 40, 58, 74, 96, 97, 128, 129, 170, 192, 300])
def test_padding_holds_the_channels(gpu: ModuleType, width: int) -> None:
    hi, lo = gpu.pieces(width)
    assert hi + lo >= width and hi % lo == 0 and lo >= 16 and hi + lo <= max(32, 1.5 * width)


def test_refusals(gpu: ModuleType) -> None:
    with pytest.raises(ValueError, match="17 outputs"):
        gpu.TritonRunner(mlp_of((), 17))
    with pytest.raises(ValueError, match="contiguous"):
        fused(gpu, mlp_of(()), torch.randn(1, 6, 4, 4, device=DEVICE), torch.zeros(8, 8, 3).permute(2, 0, 1), None)


def test_without_triton_torch_does_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "models.fast.gpu", None)  # as if it could not be imported
    triton_runner.cache_clear()
    model = build_pcsr(TINY_PCSR)
    runners = triton_runners(model.mlps(), model.mean)
    assert all(isinstance(runner, TorchRunner) for runner in runners)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "kernels were not built" in err
