"""The data-set commands: what they write, what they keep, and what a bad file or option costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.folder import PairedFolder
from datasets.prepare import data_augmentation, extract_subimages, generate_mod_lr_bic, make_pair
from tests.conftest import ROOT, Cli
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import Array, to_tensor
from utils.patches import starts
from utils.resize import imresize, imresize_matlab_uint8


def picture(height: int, width: int, seed: int = 0, bits: int = 8) -> Array:
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(2**bits, size=(height, width, 3), dtype=dtype)


def pixels(path: Path) -> Array:
    return read_image(path).pixels


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def resized(image: Array, height: int, width: int) -> Array:
    """The formula: both passes in float64 on the levels, then rounded half up to the input's type."""
    planes = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)
    levels = imresize(planes, (height, width)).permute(1, 2, 0).numpy()
    return np.floor(levels + 0.5).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)


def started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def errors(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines about errors, without those of the progress bar."""
    return [line.strip() for line in result.stderr.splitlines() if line.strip().startswith("error:")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images, a (23x30) and b (20x21, with alpha)."""
    write_image(tmp_path / "in" / "a.png", picture(23, 30))
    write_image(tmp_path / "in" / "b.png", picture(20, 21, 1), np.full((20, 21), 9, np.uint8))
    return tmp_path / "in"


def test_augmentation_shrinks_by_every_scale(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data_augmentation(source, out, [1, 0.9, 0.6], min_size=1, workers=1)
    assert names(out) == [f"{name}_s{scale}.png" for name in "ab" for scale in ("0.6", "0.9", "1")]
    image = pixels(source / "a.png")
    assert (pixels(out / "a_s1.png") == image).all()
    assert (pixels(out / "a_s0.9.png") == resized(image, 21, 27)).all()
    assert (pixels(out / "a_s0.6.png") == resized(image, 14, 18)).all()
    assert read_image(out / "b_s1.png").alpha is None


def test_augmentation_leaves_out_what_is_too_small(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "c.png").write_bytes(b"no image")  # not small, but an error
    with pytest.raises(InputError, match="1 of 3 images failed"):
        data_augmentation(source, tmp_path / "out", [1, 0.9, 0.6], min_size=20, workers=1)
    assert names(tmp_path / "out") == ["a_s0.9.png", "a_s1.png", "b_s1.png"]  # 0.9 * 20 are 18, 0.9 * 23 are 21
    assert "3 images are left out: they would have a side under 20 pixels" in capsys.readouterr().out


def test_augmentation_keeps_16_bits(tmp_path: Path) -> None:
    image = picture(20, 20, bits=16)
    write_image(tmp_path / "in" / "deep.png", image)
    data_augmentation(tmp_path / "in", tmp_path / "out", [0.5], min_size=1, workers=1)
    small = pixels(tmp_path / "out" / "deep_s0.5.png")
    assert small.dtype == np.uint16
    assert (small == resized(image, 10, 10)).all()


def test_lr_of_another_scale_is_not_kept(source: Path, tmp_path: Path) -> None:
    generate_mod_lr_bic(source, tmp_path / "lr", None, 2, matlab_uint8=False, workers=1)
    with pytest.raises(InputError, match=r"a\.png: is 15x11, but scale 4 makes 7x5; give another"):
        generate_mod_lr_bic(source, tmp_path / "lr", None, 4, matlab_uint8=False, workers=1)
    assert pixels(tmp_path / "lr" / "a.png").shape == (11, 15, 3)


def test_images_of_another_cut_are_not_kept(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_mod_lr_bic(source, tmp_path / "lr4", tmp_path / "hr", 4, matlab_uint8=False, workers=1)
    with pytest.raises(InputError, match=r"hr/a\.png: is 28x20, but scale 3 makes 30x21; give another output folder"):
        generate_mod_lr_bic(source, tmp_path / "lr3", tmp_path / "hr", 3, matlab_uint8=False, workers=1)
    assert not (tmp_path / "lr3").exists()
    extract_subimages(source, tmp_path / "sub", size=12, step=8, remainder=2, workers=1)
    with pytest.raises(InputError, match=r"a_s001\.png: is 12x12, but size 10 makes 10x10; give another output folder"):
        extract_subimages(source, tmp_path / "sub", size=10, step=8, remainder=2, workers=1)
    with pytest.raises(InputError, match="2 images failed"):  # there would be more, most of them elsewhere
        extract_subimages(source, tmp_path / "sub", size=12, step=4, remainder=2, workers=1)
    assert capsys.readouterr().err.count("another size or step has made it") == 2


def test_what_exists_is_kept_and_what_lacks_is_made(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data_augmentation(source, out, [0.9, 0.6], min_size=1, workers=1)
    (out / "b_s0.6.png").unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    data_augmentation(source, out, [0.9, 0.6], min_size=1, workers=1)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (pixels(out / "b_s0.6.png") == resized(pixels(source / "b.png"), 12, 13)).all()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(128, [0]), (176, [0]), (177, [0, 49]), (192, [0, 64]), (240, [0, 64]), (241, [0, 64, 113])],
)
def test_a_remainder_over_48_gives_one_more(length: int, expected: list[int]) -> None:
    assert starts(length, 128, 64, remainder=48) == expected


def test_subimages_are_numbered_row_by_row(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_subimages(source, out, size=12, step=8, remainder=2, workers=1)
    image = pixels(source / "a.png")
    corners = [(top, left) for top in (0, 8, 11) for left in (0, 8, 16)]  # 23 leaves 3 over, 30 leaves 2
    assert [name for name in names(out) if name[0] == "a"] == [f"a_s{number:03d}.png" for number in range(1, 10)]
    for number, (top, left) in enumerate(corners, 1):
        assert (pixels(out / f"a_s{number:03d}.png") == image[top : top + 12, left : left + 12]).all()


def test_interrupted_subimages_are_completed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_subimages(source, out, size=12, step=8, remainder=2, workers=1)
    every = names(out)
    for number in (1, 2, 3):  # the last ones an image gets
        (out / f"a_s{number:03d}.png").unlink()
    kept = (out / "a_s004.png").stat().st_mtime_ns
    extract_subimages(source, out, size=12, step=8, remainder=2, workers=1)
    assert names(out) == every
    assert (out / "a_s004.png").stat().st_mtime_ns == kept


def test_damaged_subimages_that_were_deleted_are_made_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_subimages(source, out, size=12, step=8, remainder=2, workers=1)
    every = {path: pixels(path) for path in out.iterdir()}
    (out / "a_s002.png").unlink()
    (out / "a_s003.png").write_bytes(b"")  # as a power cut may leave it
    extract_subimages(source, out, size=12, step=8, remainder=2, workers=1)
    assert all((pixels(path) == expected).all() for path, expected in every.items())
    with pytest.raises(InputError, match=r"a_s007\.png: another size or step has made it"):
        extract_subimages(source, out, size=12, step=9, remainder=2, workers=1)


def test_images_in_subfolders_are_reported(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(source / "below/c.png", picture(20, 20))
    generate_mod_lr_bic(source, tmp_path / "lr", None, 2, matlab_uint8=False, workers=1)
    assert f"note: {source}: 1 images in subfolders are left out" in capsys.readouterr().err


def test_an_image_smaller_than_a_subimage_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="1 of 2 images failed"):
        extract_subimages(source, tmp_path / "out", size=22, step=8, remainder=2, workers=1)
    assert f"error: {source / 'b.png'}: 21x20 pixels are too few for a 22x22 sub-image" in capsys.readouterr().err
    assert "a_s001.png" in names(tmp_path / "out")


@pytest.mark.parametrize("scale", [1, 2.5, 4])
def test_lr_is_what_the_evaluation_makes(source: Path, tmp_path: Path, scale: float) -> None:
    generate_mod_lr_bic(source, tmp_path / "lr", tmp_path / "hr", scale, matlab_uint8=False, workers=1)
    made = list(PairedFolder(str(source), None, scale))
    paired = list(PairedFolder(str(source), str(tmp_path / "lr"), scale))
    for one, other in zip(made, paired, strict=True):
        torch.testing.assert_close(one.lr, other.lr, rtol=0, atol=1e-6)
        assert torch.equal(one.hr, to_tensor(pixels(tmp_path / "hr" / f"{one.name}.png")))


def test_lr_of_x4_is_the_formula(source: Path, tmp_path: Path) -> None:
    generate_mod_lr_bic(source, tmp_path / "lr", None, 4, matlab_uint8=False, workers=1)
    expected = resized(pixels(source / "a.png")[:20, :28], 5, 7)
    assert np.abs(pixels(tmp_path / "lr" / "a.png").astype(int) - expected).max() <= 1  # a tie may round either way
    assert (pixels(tmp_path / "lr" / "a.png") == expected).mean() > 0.9


def test_matlab_uint8_rounds_in_between(source: Path, tmp_path: Path) -> None:
    generate_mod_lr_bic(source, tmp_path / "lr", None, 4, matlab_uint8=True, workers=1)
    image = torch.from_numpy(pixels(source / "a.png")[:20, :28]).permute(2, 0, 1)
    expected = imresize_matlab_uint8(image, (5, 7)).permute(1, 2, 0).numpy()
    assert (pixels(tmp_path / "lr" / "a.png") == expected).all()
    generate_mod_lr_bic(source, tmp_path / "exact", None, 4, matlab_uint8=False, workers=1)
    assert (pixels(tmp_path / "exact" / "a.png") != expected).any()


def test_lr_of_16_bits_has_8() -> None:
    deep = picture(16, 16, bits=16)
    shallow = np.round(deep / 257).astype(np.uint8)

    def low(hr: Array, matlab_uint8: bool = False) -> Array:
        ((_, lr),) = make_pair(hr, None, Path("lr.png"), Path("hr.png"), 4, matlab_uint8)
        return lr

    assert low(deep).dtype == np.uint8
    assert np.abs(low(deep).astype(int) - low(shallow)).max() <= 1
    with pytest.raises(InputError, match=r"hr\.png: 16 bits"):
        low(deep, matlab_uint8=True)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 0.5])
def test_bad_lr_scales(source: Path, tmp_path: Path, scale: float) -> None:
    with pytest.raises(InputError, match="scale must be"):
        generate_mod_lr_bic(source, tmp_path / "lr", None, scale, matlab_uint8=False, workers=1)


@pytest.mark.parametrize("scales", [[], [0], [1, -0.5], [float("nan")], [1.1]])
def test_bad_augmentation_scales(source: Path, tmp_path: Path, scales: list[float]) -> None:
    with pytest.raises(InputError, match="scales must be"):
        data_augmentation(source, tmp_path / "out", scales, min_size=1, workers=1)


def test_bad_augmentation_size(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="min_size must be"):
        data_augmentation(source, tmp_path / "out", [1], min_size=0, workers=1)


@pytest.mark.parametrize(
    ("size", "step", "remainder", "workers"), [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, -1, 1), (1, 1, 0, 0)]
)
def test_bad_subimage_options(source: Path, tmp_path: Path, size: int, step: int, remainder: int, workers: int) -> None:
    with pytest.raises(InputError, match="must be at least"):
        extract_subimages(source, tmp_path / "out", size, step, remainder, workers)


def test_bad_folders(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for folder, out, message in [
        (tmp_path / "none", tmp_path / "out", "no such folder"),
        (tmp_path / "empty", tmp_path / "out", "no images"),
        (source, source / ".." / "in", "must differ"),
        (source, tmp_path / "file", "is no folder"),
    ]:
        with pytest.raises(InputError, match=message):
            data_augmentation(folder, out, [1], min_size=1, workers=1)
    with pytest.raises(InputError, match="must differ"):
        generate_mod_lr_bic(source, tmp_path / "out", tmp_path / "out", 4, matlab_uint8=False, workers=1)
    assert names(tmp_path) == ["empty", "file", "in"]


def test_two_images_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    write_image(source / "a.bmp", picture(8, 8))
    with pytest.raises(InputError, match=r"a\.bmp and .*a\.png would both become .*a_s1\.png"):
        data_augmentation(source, tmp_path / "out", [1], min_size=1, workers=1)


def test_command_goes_on_after_a_corrupt_file(source: Path, tmp_path: Path) -> None:
    content = (source / "b.png").read_bytes()
    (source / "aa.png").write_bytes(content[: len(content) // 2])
    options = ("--input", source, "--output", tmp_path / "out", "--scales", "1", "0.5", "--workers", "1")
    result = started("datasets/scripts/data_augmentation.py", *options)
    assert result.returncode == 2
    bad, end = errors(result)
    assert str(source / "aa.png") in bad
    assert end == "error: 1 of 3 images failed; the others are done"
    assert "Traceback" not in result.stderr
    assert names(tmp_path / "out") == ["a_s0.5.png", "a_s1.png", "b_s0.5.png", "b_s1.png"]


def test_command_extract_subimages(source: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--input", source, "--output", tmp_path / "out", "--size", "16", "--step", "16", "--remainder", "9")
    result = cli("datasets/scripts/extract_subimages.py", *options, "--workers", "1")
    assert result.code == 0, result.err
    assert "2 images done, 0 were done already" in result.out
    assert names(tmp_path / "out") == ["a_s001.png", "a_s002.png", "b_s001.png"]


def test_command_generate_mod_lr_bic(source: Path, tmp_path: Path, cli: Cli) -> None:
    out = ("--output", tmp_path / "lr", "--mod_output", tmp_path / "hr")
    options = ("--input", source, *out, "--scale", "2.5", "--matlab_uint8", "--workers", "1")
    result = cli("datasets/scripts/generate_mod_LR_bic.py", *options)
    assert result.code == 0, result.err
    assert [pixels(tmp_path / kind / "a.png").shape for kind in ("hr", "lr")] == [(22, 30, 3), (9, 12, 3)]


def test_command_as_a_module() -> None:
    result = started("-m", "datasets.scripts.data_augmentation", "--help")
    assert result.returncode == 0, result.stderr
    assert "(default: " in result.stdout
