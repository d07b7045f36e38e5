"""CARN's residual units and fusions in one kernel against the same layers one after another, to the bit."""

import pytest
import torch

from models.carn import CascadingBlock
from models.fast.accelerate import FastResidualUnit, accelerate
from models.fast.build import has_half, load_kernels
from models.fast.cascade import cascade_folded
from models.fast.fold import folded
from models.fast.unit import units_folded

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no C++ compiler")

HALF = pytest.param(torch.float16, marks=pytest.mark.skipif(not has_half(), reason="no kernels for float16"))


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("width", [12, 52, 80])
@pytest.mark.parametrize("size", [(1, 1), (3, 6), (8, 97), (47, 33), (70, 200)])
@torch.inference_mode()
def test_as_layer_by_layer(size: tuple[int, int], width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = folded(CascadingBlock(width))
    x = torch.randn(2, width, *size)
    exact = block.double()(x.double())
    block.float()
    accelerate(block)
    assert type(block.unit) is FastResidualUnit
    expected = cascade_folded(x.to(dtype), [block.unit] * 3, block.fuse)
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made = units_folded(x.to(dtype), block.unit, block.fuse)
        torch.set_num_threads(before)
        assert torch.equal(made, expected)
    image = x[:1].to(dtype).contiguous()  # not channels last
    torch.testing.assert_close(block.unit(image), block.unit(x.to(dtype))[:1])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(made.double(), exact, rtol=0, atol=tolerance * float(exact.abs().max()))
