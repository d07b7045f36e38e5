"""The picture of an image that was stored as JPEG, enlarged with two kinds of weights."""

import re
from pathlib import Path

import pytest

from tests.conftest import TINY_PCSR, Cli, make_folder, save_tiny
from utils.decode import read_image


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    save_tiny(tmp_path / "a", TINY_PCSR)
    save_tiny(tmp_path / "b", TINY_PCSR)
    make_folder(tmp_path / "hr", [(97, 130)])
    return ["--img_path", "hr/img_0.png", "--clean", "a", "--photo", "b", "--device", "cpu"]


def test_coarser_jpegs_give_less(cli: Cli, tmp_path: Path, weights: list[str]) -> None:
    found = {}
    for quality in (5, 95):
        done = cli("benchmarks/compressed.py", *weights, "--quality", quality, "--out", f"out/{quality}.png")
        assert done.code == 0, done.err
        found[quality] = [float(text) for text in re.findall(r"([\d.]+) dB", done.out)]
        assert read_image(tmp_path / f"out/{quality}.png").pixels.ndim == 3
    assert all(len(psnrs) == 3 for psnrs in found.values())
    assert all(low + 1 < high for low, high in zip(found[5], found[95], strict=True))


@pytest.mark.parametrize("quality", ["0", "101", "good"])
def test_no_such_quality(cli: Cli, weights: list[str], quality: str) -> None:
    done = cli("benchmarks/compressed.py", *weights, "--quality", quality)
    assert done.code == 2 and "--quality" in done.err and "Traceback" not in done.err
