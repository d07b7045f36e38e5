from itertools import pairwise

import pytest
import torch

from utils.errors import InputError
from utils.patches import Patches, bands, crop_length, starts


@pytest.mark.parametrize("length,expected", [(20, [0]), (32, [0]), (60, [0, 28]), (61, [0, 28, 29]), (88, [0, 28, 56])])
def test_patches_cover_the_axis(length: int, expected: list[int]) -> None:
    assert starts(length, 32, 28) == expected


def test_crop_keeps_whole_steps() -> None:
    assert [crop_length(n, 32, 28) for n in (20, 32, 59, 60, 100)] == [20, 32, 32, 60, 88]


@pytest.mark.parametrize("size", [(7, 9), (40, 61), (100, 33)])
@pytest.mark.parametrize("scale", [1, 2.5, 4])
def test_merging_untouched_patches_gives_the_image_back(size: tuple[int, int], scale: float) -> None:
    tiling = Patches(16, 12) if scale == 2.5 else Patches(16, 13)
    lr = torch.rand(1, 3, *size)
    if scale == 2.5:  # even sizes, so that every window starts on a whole HR pixel
        lr = torch.rand(1, 3, *(2 * (n // 2) for n in size))
    hr = torch.rand(1, 3, round(lr.shape[2] * scale), round(lr.shape[3] * scale))
    patches = torch.cat(tiling.split(lr))
    corners = [(rows.start, cols.start) for rows, cols in tiling.windows(lr)]
    assert len(patches) == len(corners)
    side = [round(min(n, 16) * scale) for n in lr.shape[2:]]
    windows = [(int(top * scale), int(left * scale)) for top, left in corners]
    patches = torch.cat([hr[..., top : top + side[0], left : left + side[1]] for top, left in windows])
    torch.testing.assert_close(tiling.merge([patches], lr, scale), hr)


def test_overlaps_are_averaged() -> None:
    lr = torch.rand(1, 3, 4, 6)
    merged = Patches(4, 2).merge([torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])], lr, 1)
    assert merged[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]
    heaviest = Patches(4, 2).merge_heaviest([torch.tensor([0, 1])[:, None, None].expand(2, 4, 4)], lr, 1)
    assert heaviest[0, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_products_that_are_whole_but_for_rounding() -> None:
    for scale, patches in ((1.1, Patches(20, 10)), (2.2, Patches(10, 5))):
        windows = patches.windows(torch.rand(1, 3, 40, 40), scale)
        side = round(patches.patch_size * scale)
        assert {rows.stop - rows.start for rows, _ in windows} == {side} and windows[-1][0].stop == round(40 * scale)


def test_patches_between_pixels_are_refused() -> None:
    with pytest.raises(InputError, match=r"^scale 2.5: .*; work on whole images$"):
        Patches(4, 3).windows(torch.rand(1, 3, 4, 7), 2.5)
    with pytest.raises(
        InputError, match=r"^scale 2.5: .*; work on whole images$"
    ):  # starts on whole pixels, ends between two
        Patches(31, 2).windows(torch.rand(1, 3, 33, 33), 2.5)


@pytest.mark.parametrize("height,rows,shared", [(1, 4, 0), (8, 4, 0), (9, 4, 0), (20, 6, 3), (9, 6, 3), (10, 6, 3)])
def test_bands_cover_the_height(height: int, rows: int, shared: int) -> None:
    cut = list(bands(height, rows, shared))
    assert cut[0].start == 0 and cut[-1].stop == height
    for one, other in pairwise(cut):
        assert one.stop - other.start == shared and other.start - one.start == rows
