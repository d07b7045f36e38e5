"""Convolutions by Winograd's algorithm against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.fast.build import load_kernels
from models.fast.winograd import convolution_gradients, convolve

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no C++ compiler")

SIZES = [(1, 1), (2, 3), (7, 5), (64, 64), (33, 47)]
CHANNELS = [(3, 58, 1), (58, 58, 1), (13, 7, 1), (52, 52, 4), (70, 66, 1), (12, 140, 2)]
CHANNELS += [(3, 16, 1), (3, 48, 1), (64, 64, 4), (17, 33, 1), (48, 48, 1)]  # multiples of a vector and one beside


def error(ours: Tensor, exact: Tensor | None) -> float:
    """Relative to the largest value."""
    assert exact is not None
    return float((ours.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("ins", "outs", "groups"), CHANNELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_convolution_and_its_gradients(ins: int, outs: int, groups: int, batch: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(batch, ins, *size), torch.randn(batch, outs, *size)
    weight, bias = torch.randn(outs, ins // groups, 3, 3), torch.randn(outs)
    if batch > 1:
        weight = weight.contiguous(memory_format=torch.channels_last)
    exact_x, exact_weight, exact_bias = (tensor.double().requires_grad_() for tensor in (x, weight, bias))
    result = F.conv2d(exact_x, exact_weight, exact_bias, padding=1, groups=groups)
    result.backward(gradient.double())
    assert error(convolve(x, weight, groups, bias), result.detach()) < 1e-5
    ours = convolution_gradients(x, gradient, weight, groups)
    for found, exact in zip(ours, (exact_x, exact_weight, exact_bias), strict=True):
        assert error(found, exact.grad) < 1e-5
    without = convolution_gradients(x, gradient, weight, groups, needs_x=False)
    assert without.x.numel() == 0 and torch.equal(without.weight, ours.weight)


def test_what_follows_a_sum() -> None:
    torch.manual_seed(0)
    x, add = torch.randn(2, 20, 9, 6), torch.randn(2, 20, 9, 6)
    weight, bias = torch.randn(20, 20, 3, 3), torch.randn(20)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1) + add.double()
    assert error(convolve(x, weight, bias=bias, add=add, slope=0.1), F.leaky_relu(exact, 0.1)) < 1e-5


def test_what_follows_a_gradient() -> None:
    torch.manual_seed(0)
    before, gradient, add = (torch.randn(2, 20, 9, 6) for _ in range(3))
    weight = torch.randn(20, 20, 3, 3)
    exact = before.double().requires_grad_()
    F.conv2d(F.leaky_relu(exact, 0.1), weight.double(), padding=1).backward(gradient.double())
    assert error(convolution_gradients(F.leaky_relu(before, 0.1), gradient, weight, slope=0.1).x, exact.grad) < 1e-5
    plain = convolution_gradients(before, gradient, weight).x
    assert error(convolution_gradients(before, gradient, weight, add=add).x, (plain + add).double()) < 1e-5


def test_results_do_not_depend_on_the_run(threads: int = 3) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 33, 40, 40), torch.randn(33, 33, 3, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [(convolve(x, weight), *convolution_gradients(x, x, weight)) for _ in range(5)]
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(run, runs[0], strict=True))
