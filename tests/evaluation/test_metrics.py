import math

import pytest
import torch
from skimage.metrics import structural_similarity

from evaluation import metrics
from evaluation.metrics import psnr, ssim


def test_psnr_of_a_known_error() -> None:
    hr = torch.full((1, 3, 20, 20), 100 / 255)
    assert psnr(hr + 5 / 255, hr, shave=0) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(hr + 0.4 / 255, hr, shave=0) == math.inf  # lost when rounded to 8 bits
    assert psnr(hr + 2, hr, shave=0) == pytest.approx(20 * math.log10(255 / 155))  # clamped


def test_nan_is_no_perfect_score() -> None:
    hr = torch.rand(1, 3, 20, 20)
    assert math.isnan(psnr(hr * math.nan, hr, 0))


def test_y_is_a_weighted_sum() -> None:
    hr = torch.full((1, 3, 20, 20), 100 / 255)
    sr = hr.clone()
    sr[:, 1] += 10 / 255
    assert psnr(sr, hr, 0, "y") == pytest.approx(20 * math.log10(255 / (10 * 128.553 / 255)))
    assert psnr(sr, hr, 0, "rgb") == pytest.approx(20 * math.log10(255 / math.sqrt(100 / 3)))


def test_border_is_shaved() -> None:
    hr = torch.rand(1, 3, 20, 20)
    sr = hr.clone()
    sr[..., :4, :] = 0
    assert psnr(sr, hr, shave=4) == math.inf
    assert psnr(sr, hr, shave=3) < math.inf
    assert psnr(hr[..., :8, :8], hr[..., :8, :8], shave=4) == math.inf  # nothing would be left: the border stays


def test_ssim() -> None:
    hr = torch.rand(1, 3, 40, 40)
    assert ssim(hr, hr, 4) == pytest.approx(1)
    noisy = hr + 0.1 * torch.randn_like(hr)
    assert 0 < ssim(noisy, hr, 4) < 1
    assert ssim(noisy, hr, 4, "y") != ssim(noisy, hr, 4)
    assert math.isnan(ssim(hr[..., :10, :10], hr[..., :10, :10], 0))


@pytest.mark.parametrize("height", [40, 41, 50, 51, 64])
def test_large_images_are_measured_in_bands(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BAND_ROWS", 20)
    hr = torch.randint(256, (1, 3, height, 30)) / 255
    sr = (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1).mul(255).round() / 255
    first, second = (image[0, :, 4:-4, 4:-4].double().numpy() * 255 for image in (sr, hr))
    whole = structural_similarity(
        first, second, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(sr, hr, 4) == pytest.approx(whole, abs=1e-9)
    assert psnr(sr, hr, 4) == pytest.approx(20 * math.log10(255) - 10 * math.log10(((first - second) ** 2).mean()))


def test_psnr_of_masked_pixels() -> None:
    hr = torch.full((1, 3, 20, 30), 100 / 255)
    sr = hr.clone()
    sr[..., :10] += 5 / 255
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[8:12] = True
    mask[8:12, 20:] = False  # of what is left inside the border, 6 of 16 columns are wrong
    assert psnr(sr, hr, 4, mask=mask) == pytest.approx(20 * math.log10(255 / 5) - 10 * math.log10(6 / 16))
    mask[4:-4, 4:-4] = False
    assert math.isnan(psnr(sr, hr, 4, mask=mask))
