import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import ROOT
from utils.decode import read_image
from utils.errors import InputError
from utils.resize import downscale, imresize, imresize_matlab_uint8, round_8bit


def direct(signal: list[float], size: int) -> list[float]:
    """The definition, one output at a time: stretched cubic kernel over a mirrored signal."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    n, scale = len(signal), size / len(signal)
    stretch = max(1.0, 1 / scale)
    result = []
    for i in range(size):
        centre = (i + 0.5) / scale - 0.5
        reach = range(math.floor(centre - 2 * stretch) - 1, math.ceil(centre + 2 * stretch) + 2)
        weights = {j: kernel((j - centre) / stretch) for j in reach}
        mirrored = {j: j % (2 * n) if j % (2 * n) < n else 2 * n - 1 - j % (2 * n) for j in reach}
        result.append(sum(w * signal[mirrored[j]] for j, w in weights.items()) / sum(weights.values()))
    return result


@pytest.mark.parametrize("n,size", [(40, 10), (10, 40), (37, 11), (11, 37), (200, 150), (5, 2), (3, 1), (1, 4), (8, 8)])
def test_both_axes_equal_the_definition(n: int, size: int) -> None:
    signal = torch.rand(n, dtype=torch.float64)
    expected = torch.tensor(direct(signal.tolist(), size), dtype=torch.float64)
    image = signal[:, None].expand(n, 3)
    torch.testing.assert_close(imresize(image, (size, 3))[:, 0], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(imresize(image.T, (3, size))[0], expected, atol=1e-12, rtol=0)


def test_batched_float32_equals_float64() -> None:
    images = torch.rand(2, 3, 64, 48, dtype=torch.float64)
    torch.testing.assert_close(
        imresize(images.float(), (16, 12)).double(), imresize(images, (16, 12)), atol=1e-6, rtol=0
    )


def test_constant_stays_constant_and_size_is_checked() -> None:
    torch.testing.assert_close(imresize(torch.full((1, 9, 9), 0.25), (31, 4)), torch.full((1, 31, 4), 0.25))
    with pytest.raises(InputError):
        imresize(torch.rand(1, 4, 4), (0, 4))


def test_downscale_rounds_to_8_bits_unless_told() -> None:
    hr = torch.rand(1, 3, 20, 30, dtype=torch.float64)
    lr = downscale(hr, 2.5)
    assert lr.shape == (1, 3, 8, 12)
    assert torch.equal((lr * 255).round() / 255, lr)
    assert not torch.equal(downscale(hr, 2.5, eight_bit=False), lr)
    assert torch.equal(round_8bit(torch.tensor([-1.0, 0.5 / 255, 0.49 / 255, 2.0])), torch.tensor([0, 1 / 255, 0, 1.0]))


def test_matlab_mode_gives_these_values() -> None:
    """Those of a picture of our own, where the test below, of MATLAB's own values, has passed."""
    hr = load(ROOT / "tests/quality/crops/chelsea.png")[:1, :32, :32]
    expected = [
        [126, 151, 168, 163, 144, 163, 169, 164],
        [163, 149, 150, 155, 163, 162, 167, 169],
        [158, 151, 164, 162, 164, 172, 175, 176],
        [135, 156, 150, 154, 163, 166, 177, 183],
        [110, 104, 126, 148, 161, 166, 177, 175],
        [143, 140, 150, 159, 155, 156, 161, 153],
        [160, 155, 177, 178, 181, 183, 179, 160],
        [160, 154, 166, 186, 190, 192, 190, 175],
    ]
    assert imresize_matlab_uint8(hr, (8, 8))[0].tolist() == expected


def load(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path).pixels).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_matlab_mode_equals_matlab_in_every_value(name: str, reference: Path) -> None:
    paths = sorted((reference / "reference" / "matlab_lr_x4" / name).glob("*.png"))
    assert paths
    for path in paths:
        hr = load(reference / "data" / "benchmarks" / name / path.name)
        lr = imresize_matlab_uint8(hr, (hr.shape[1] // 4, hr.shape[2] // 4))
        assert np.array_equal(lr.numpy(), load(path).numpy()), path.name
