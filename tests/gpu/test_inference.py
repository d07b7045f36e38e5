"""Restoring images on a GPU: in tiles, with too little memory, from Python and from the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.restorers import original_restorer, pcsr_restorer
from inference.tiles import TilePlan
from inference.upscaler import Upscaler
from models.build import BACKBONES
from models.setting import Setting
from tests.conftest import TINY_PCSR, Cli, make_folder, photo, save_tiny
from tests.gpu.test_models import CPU, model_of
from utils.image import to_tensor

SETTINGS = [Setting("k", 0.1), Setting("adaptive"), Setting("budget", 0.9, scale=4.0)]


def assert_alike(found: np.ndarray, expected: np.ndarray, same: float = 1.0) -> None:
    """Equal but for one level, in this share of the pixels."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert (difference <= 1).mean() >= same


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_device_gives_the_picture_of_the_cpu(backbone: str, device: torch.device) -> None:
    model, lr = model_of(backbone), to_tensor(photo(61, 83))
    results = (pcsr_restorer(model, SETTINGS, place)(lr) for place in (device, CPU))
    for found, expected in zip(*results, strict=True):
        assert found.assignment is not None and expected.assignment is not None
        assert (found.assignment == expected.assignment).mean() > 0.999  # but for pixels on the threshold
        assert_alike(found.pixels, expected.pixels, 0.999)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tiles(backbone: str, device: torch.device) -> None:
    model, original, lr = model_of(backbone), model_of(backbone, "x4"), to_tensor(photo(81, 96))
    plans = [TilePlan(1000), TilePlan(30)]
    for found, expected in zip(*(pcsr_restorer(model, SETTINGS, device, plan)(lr) for plan in plans), strict=True):
        assert_alike(found.pixels, expected.pixels, 0.999)
    found, expected = (original_restorer(original, device, plan)(lr)[0].pixels for plan in plans)
    assert_alike(found, expected)


@pytest.mark.parametrize("kind", ["pcsr-phase1", "x4"])
def test_too_little_memory(kind: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA's allocator can be given a limit, the CPU's cannot")
    model, lr = model_of("carn", kind), torch.rand(1, 3, 1024, 1024)
    restore: Any = pcsr_restorer(model, [Setting()], device) if kind != "x4" else original_restorer(model, device)
    torch.cuda.reset_peak_memory_stats(device)
    expected = restore(lr)[0].pixels
    needed = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6 * needed / total)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        found = restore(lr)[0].pixels
        assert torch.cuda.max_memory_allocated(device) <= 0.6 * needed
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_alike(found, expected, 0.999)


def test_upscaler(tmp_path: Path, device: torch.device) -> None:
    weights, picture = save_tiny(tmp_path / "tiny", TINY_PCSR), photo(31, 45)
    upscaler, on_cpu = (Upscaler.load(weights, name, "float32") for name in (device.type, "cpu"))
    array, info = upscaler.upscale(picture, scale=2.5, adaptive=True, prob=True)
    expected, of_cpu = on_cpu.upscale(picture, scale=2.5, adaptive=True, prob=True)
    assert_alike(array, expected, 0.999)
    np.testing.assert_allclose(info.prob, of_cpu.prob, atol=1e-4)
    image = torch.from_numpy(picture).permute(2, 0, 1).to(device)
    tensor, _ = upscaler.upscale(image, scale=2.5, adaptive=True)
    assert tensor.device.type == device.type
    assert_alike(tensor.permute(1, 2, 0).cpu().numpy(), array)  # GPUs divide by 255 in another way


def test_scripts(cli: Cli, tmp_path: Path, device: torch.device) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    make_folder(tmp_path / "hr", [(61, 83), (48, 40)])
    common = ["--model", "tiny", "--device", device.type]
    upscaled = cli("demo.py", "hr", "--upscale", *common)
    assert upscaled.code == 0, upscaled.err
    evaluated = cli("test_pcsr.py", "--hr_data", "hr", "--per_image", "--k", 0, "--adaptive", *common)
    assert evaluated.code == 0, evaluated.err
    patches = cli("test_pcsr.py", "--hr_data", "hr", "--patch_size", 8, "--step", 6, *common)
    assert patches.code == 0, patches.err
